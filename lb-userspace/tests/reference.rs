//! `docs/config.md` says what the code says.

use std::{fs, path::Path};

use lb_userspace::{
    model::{
        Config,
        keys::{Key, NODE},
    },
    source::file::reference,
};

#[test]
fn the_reference_of_the_config_is_that_of_the_keys() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/config.md");
    let made = reference();
    if std::env::var_os("NARU_WRITE_DOCS").is_some() {
        fs::write(&path, &made).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differing =
        made.lines().zip(written.lines().chain(std::iter::repeat(""))).find(|(made, written)| made != written);
    assert!(
        made == written,
        "docs/config.md is not what the keys say, first at {differing:?}: write it anew by NARU_WRITE_DOCS=1 cargo \
         test --workspace --test reference"
    );
}

/// What the reference says of a key of `[node]` that is not there is so: to write it makes no difference.
#[test]
fn the_defaults_of_the_node_are_those_of_the_reference() {
    let node = |text: &str| {
        let config = Config::parse(&format!("[node]\ninterfaces = []\n{text}\n"), Path::new("f"));
        config.unwrap().node.clone()
    };
    let is_default = |key: &&Key| {
        let value = key.example.strip_prefix(key.name).and_then(|rest| rest.strip_prefix(" = "));
        value.is_some_and(|value| value.trim_matches('"') == key.default)
    };
    let mut said = 0;
    for key in NODE.iter().filter(is_default) {
        assert_eq!(node(key.example), node(""), "{}", key.name);
        said += 1;
    }
    assert!(said >= 10, "only {said} keys have an example that is their default");
}

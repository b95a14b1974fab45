//! The example configs are valid, and the reference says what the code does.

use std::path::{Path, PathBuf};

use lb_userspace::{
    model::{Backend, Config, Node, Parts, Settings, Vip},
    source::file::Warning,
};

fn configs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs")
}

#[test]
fn every_example_is_valid_and_raises_no_doubt() {
    let entries = std::fs::read_dir(configs()).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect();
    assert!(examples.len() >= 3, "{examples:?}");
    for path in examples {
        let config = Config::read(&path).unwrap_or_else(|error| panic!("{error}"));
        // The demo adds the place of its seed.
        let is_demo = path.file_name().is_some_and(|name| name == "demo.toml");
        let expected: &[_] = if is_demo { &[Warning::NoHashSeed] } else { &[] };
        assert_eq!(config.warnings(), expected, "{}", path.display());
    }
}

#[test]
fn the_reference_names_every_key_with_its_default() {
    let text = std::fs::read_to_string(configs().join("naru.toml")).unwrap();
    let config = Config::parse(&text, Path::new("naru.toml")).unwrap();
    let Parts { node, vips } = &*config;
    let stated =
        Node { interfaces: Vec::new(), metrics: None, encap_source6: None, hash_seed_file: None, ..node.clone() };
    assert_eq!(stated, Node::default());
    let Vip { settings, backends, .. } = &*vips[0];
    assert_eq!(*settings, Settings::default());
    let [stated, default, _] = backends[..] else { panic!("three backends") };
    assert_eq!(stated, Backend { address: stated.address, ..default });

    // A key that the reference leaves out shows in the list of an unknown one.
    for (table, line) in [
        ("[node]", "[node]\nbogus_key = 1\n"),
        ("[[vip]]", "[[vip]]\nbogus_key = 1\n"),
        ("a backend", "{ bogus_key = 1, address"),
    ] {
        let broken = text.replacen(if table == "a backend" { "{ address" } else { table }, line, 1);
        let errors = Config::parse(&broken, Path::new("naru.toml")).unwrap_err();
        let message = &errors.iter().next().unwrap().message;
        let (_, keys) = message.split_once("the keys here are ").unwrap_or_else(|| panic!("{errors}"));
        for key in keys.split('`').skip(1).step_by(2) {
            // A line of its own, which may have to be uncommented; those of a backend are on one line.
            let stands = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{key} = "));
            let is_there = text.lines().any(stands) || table == "a backend" && text.contains(&format!("{key} = "));
            assert!(is_there, "`{key}` of {table} is not in the reference");
        }
    }
}

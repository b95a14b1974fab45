//! Which room of the daemon uses which: as ARCHITECTURE.md draws it, and never upwards.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

/// Rooms that a room uses, tests aside.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// The heading of the picture in ARCHITECTURE.md.
const HEADING: &str = "### Who uses whom\n";

#[test]
fn rooms_use_each_other_as_the_picture_says() {
    let uses = uses();
    let drawn = drawn();
    let order: Vec<&String> = drawn.iter().map(|(room, _)| room).collect();
    for (room, below) in &drawn {
        let place = order.iter().position(|other| *other == room);
        for used in below {
            let other = order.iter().position(|other| *other == used);
            assert!(other > place, "{used} is not below {room} in the picture");
        }
    }
    assert_eq!(uses, drawn.into_iter().collect(), "what is used, and what ARCHITECTURE.md says is used");
}

/// The picture: a line for each room, and behind it those that it uses.
fn drawn() -> Vec<(String, BTreeSet<String>)> {
    let text = fs::read_to_string(root().join("../ARCHITECTURE.md")).unwrap();
    let (_, picture) = text.split_once(HEADING).unwrap_or_else(|| panic!("ARCHITECTURE.md has no {HEADING}"));
    let lines =
        picture.lines().skip_while(|line| !line.starts_with("    ")).take_while(|line| line.starts_with("    "));
    let line = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.collect())
    };
    lines.map(line).collect()
}

fn uses() -> Uses {
    let mut uses = Uses::new();
    let source = root().join("src");
    for file in files(&source) {
        let path = file.strip_prefix(&source).unwrap();
        let first = path.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.strip_suffix(".rs").unwrap_or(first);
        if matches!(room, "lib" | "main") || path.ends_with("tests.rs") || path.ends_with("fixtures.rs") {
            continue;
        }
        let mut found = Found::default();
        let text = fs::read_to_string(&file).unwrap();
        found.visit_file(&syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", file.display())));
        found.0.remove(room);
        uses.entry(room.to_owned()).or_default().extend(found.0);
    }
    uses
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// Modules at the root of the crate that are named, but for tests.
#[derive(Default)]
struct Found(BTreeSet<String>);

impl Found {
    /// Takes note of the names behind `crate::` in a tree of imports.
    fn import(&mut self, tree: &syn::UseTree) {
        match tree {
            syn::UseTree::Path(path) => drop(self.0.insert(path.ident.to_string())),
            syn::UseTree::Name(name) => drop(self.0.insert(name.ident.to_string())),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree)),
            syn::UseTree::Rename(_) | syn::UseTree::Glob(_) => {}
        }
    }
}

impl<'a> Visit<'a> for Found {
    fn visit_item(&mut self, item: &'a syn::Item) {
        let attributes = match item {
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &vec![],
        };
        if !attributes.iter().any(is_for_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !function.attrs.iter().any(is_for_tests) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        match &item.tree {
            syn::UseTree::Path(path) if path.ident == "crate" => self.import(&path.tree),
            _ => {}
        }
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let mut segments = path.segments.iter();
        if segments.next().is_some_and(|first| first.ident == "crate") {
            self.0.extend(segments.next().map(|second| second.ident.to_string()));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        let text = called.tokens.to_string();
        let names = text.split("crate :: ").skip(1).filter_map(|rest| rest.split_whitespace().next());
        self.0.extend(names.map(str::to_owned));
        visit::visit_macro(self, called);
    }
}

/// `#[cfg(test)]`.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
}

//! Which room of the daemon uses which: as ARCHITECTURE.md draws it, and never upwards. Within a room, no circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::visit::{self, Visit};

/// Names from the root of the crate to a module.
type Module = Vec<String>;

/// The parts of a module, for each those that it uses, and what they are used for.
type Parts = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

/// The heading of the picture in ARCHITECTURE.md.
const HEADING: &str = "### Who uses whom\n";

/// The part of a module that is its own file.
const OWN_FILE: &str = "mod.rs";

#[test]
fn rooms_use_each_other_as_the_picture_says() {
    let mut rooms = Source::read().parts(&[]);
    rooms.remove(OWN_FILE);
    let uses = rooms.into_iter().map(|(room, used)| (room, used.into_keys().collect())).collect();
    let drawn = drawn();
    let order: Vec<&String> = drawn.iter().map(|(room, _)| room).collect();
    for (room, below) in &drawn {
        let place = order.iter().position(|other| *other == room);
        for used in below {
            let other = order.iter().position(|other| *other == used);
            assert!(other > place, "{used} is not below {room} in the picture");
        }
    }
    assert_eq!(drawn.into_iter().collect::<BTreeMap<_, _>>(), uses, "what ARCHITECTURE.md says is used, and what is");
}

/// The parts of a module are the modules below it, each with all that is below that, and the file of the module itself.
/// Two things are no use: what this file only passes on (`pub use`), and what another one needs to add methods to a
/// type of it (`impl Controller`), whose fields nobody can see who is not below.
#[test]
fn parts_of_a_module_use_each_other_in_one_direction() {
    let source = Source::read();
    let circles = source.files.iter().map(|module| {
        let uses = in_circles(source.parts(module)).into_values().flat_map(BTreeMap::into_values).flatten();
        (module.join("::"), uses.collect())
    });
    let circles: BTreeMap<String, Vec<String>> = circles.filter(|(_, uses): &(_, Vec<_>)| !uses.is_empty()).collect();
    assert!(circles.is_empty(), "modules whose parts go in circles: {circles:#?}");
}

#[test]
fn circles_are_found() {
    let uses = |part: &str, used: &str| (vec![part.to_owned()], vec![used.to_owned()], String::new());
    let uses = vec![uses("a", "b"), uses("b", "c"), uses("c", "b"), uses("c", "d"), uses("d", "e")];
    let circles = in_circles(Source { files: BTreeSet::new(), uses }.parts(&[]));
    assert_eq!(circles.into_keys().collect::<Vec<_>>(), ["b", "c"]);
}

/// The parts that are left once those are gone that use nothing of the rest, or that nothing of the rest uses.
fn in_circles(mut parts: Parts) -> Parts {
    loop {
        let before = parts.clone();
        for uses in parts.values_mut() {
            uses.retain(|part, _| before.contains_key(part));
        }
        parts.retain(|part, uses| !uses.is_empty() && before.values().any(|uses| uses.contains_key(part)));
        if parts == before {
            return parts;
        }
    }
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let files = entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] });
    files.filter(|path| path.extension().is_some_and(|extension| extension == "rs")).collect()
}

/// The files of the library, tests aside.
struct Source {
    files: BTreeSet<Module>,
    /// A file, another one that it uses, and an item there.
    uses: Vec<(Module, Module, String)>,
}

impl Source {
    fn read() -> Self {
        let names = Names::of_files();
        let uses = names.iter().flat_map(|(file, own)| own.paths.iter().map(move |path| (file, own, path)));
        let uses = uses.filter_map(|(file, own, (path, is_public))| {
            let (other, item) = find(&names, file, path)?;
            let passes_on = *is_public && other.starts_with(file);
            let extends = own.extended.contains(&item) && file.starts_with(&other);
            (!passes_on && !extends).then(|| (file.clone(), other, item))
        });
        Self { uses: uses.collect(), files: names.into_keys().collect() }
    }

    fn parts(&self, module: &[String]) -> Parts {
        let part = |file: &Module| file.get(module.len()).map_or(OWN_FILE, |name| name).to_owned();
        let below = |file: &&Module| file.starts_with(module);
        let mut parts: Parts = self.files.iter().filter(below).map(|file| (part(file), BTreeMap::new())).collect();
        for (file, other, item) in &self.uses {
            if below(&file) && below(&other) && part(file) != part(other) {
                let uses = format!("{} uses {}::{item}", file.join("::"), other.join("::"));
                parts.entry(part(file)).or_default().entry(part(other)).or_default().insert(uses);
            }
        }
        parts
    }
}

/// The file that a path in `module` leads to, and its item that the path names; `None` where that is an item of
/// `module` itself, another crate's, or no item.
fn find(files: &BTreeMap<Module, Names>, module: &Module, path: &[String]) -> Option<(Module, String)> {
    let is_full = path.first()? == "crate";
    let mut at = if is_full { Module::new() } else { module.clone() };
    for (index, name) in path.iter().enumerate().skip(is_full.into()) {
        at.push(name.clone());
        if files.contains_key(&at) {
            continue;
        }
        at.pop();
        let itself = [&["crate".to_owned()], at.as_slice(), std::slice::from_ref(name)].concat();
        if let Some(import) = files[&at].imports.get(name).filter(|import| **import != itself) {
            let is_of_another_crate = import.first() == Some(name);
            let rest = || [import, &path[index + 1..]].concat();
            return if is_of_another_crate { None } else { find(files, &at, &rest()) };
        }
        return (is_full || index > 0).then(|| (at, name.clone()));
    }
    None
}

/// What a file names, but for tests.
#[derive(Default)]
struct Names {
    /// Where the visitor is.
    module: Module,
    /// Every path, and whether it stands in a `pub use`.
    paths: Vec<(Vec<String>, bool)>,
    /// Names that come from elsewhere, and the path of each.
    imports: BTreeMap<String, Vec<String>>,
    /// Types with an `impl`.
    extended: BTreeSet<String>,
}

impl Names {
    fn of_files() -> BTreeMap<Module, Self> {
        let source = root().join("src");
        let is_for_tests = |path: &PathBuf| path.ends_with("tests.rs") || path.ends_with("fixtures.rs");
        let of_file = |path: PathBuf| {
            let module = path.strip_prefix(&source).unwrap().with_extension("");
            let mut module: Module = module.iter().map(|name| name.to_str().unwrap().to_owned()).collect();
            module.pop_if(|last| matches!(last.as_str(), "mod" | "lib"));
            let mut names = Self { module: module.clone(), ..Self::default() };
            let text = fs::read_to_string(&path).unwrap();
            names.visit_file(&syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            (module, names)
        };
        let files = files(&source).into_iter().filter(|path| !is_for_tests(path) && !path.ends_with("main.rs"));
        files.map(of_file).collect()
    }

    /// A path from the root of the crate, where it begins with a word for a module.
    fn full(&self, path: Vec<String>) -> Vec<String> {
        let words = path.iter().take_while(|name| matches!(name.as_str(), "crate" | "self" | "super")).count();
        if words == 0 || path[0] == "crate" {
            return path;
        }
        let ups = path.iter().filter(|name| *name == "super").count();
        let module = &self.module[..self.module.len() - ups];
        [&["crate".to_owned()], module, &path[words..]].concat()
    }

    fn import(&mut self, before: &[String], tree: &syn::UseTree, is_public: bool) {
        let with = |name: &syn::Ident| match name.to_string() {
            own if own == "self" => before.to_vec(),
            name => [before, &[name]].concat(),
        };
        let (name, path) = match tree {
            syn::UseTree::Path(path) => {
                return self.import(&[before, &[path.ident.to_string()]].concat(), &path.tree, is_public);
            }
            syn::UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(before, tree, is_public));
            }
            syn::UseTree::Name(name) => (None, with(&name.ident)),
            syn::UseTree::Rename(name) => (Some(name.rename.to_string()), with(&name.ident)),
            syn::UseTree::Glob(_) => (None, [before, &["*".to_owned()]].concat()),
        };
        let path = self.full(path);
        self.imports.extend(name.or_else(|| path.last().cloned()).map(|name| (name, path.clone())));
        self.paths.push((path, is_public));
    }
}

impl<'a> Visit<'a> for Names {
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

    fn visit_item_mod(&mut self, module: &'a syn::ItemMod) {
        self.module.push(module.ident.to_string());
        visit::visit_item_mod(self, module);
        self.module.pop();
    }

    fn visit_item_impl(&mut self, item: &'a syn::ItemImpl) {
        if let syn::Type::Path(path) = &*item.self_ty {
            self.extended.extend(path.path.segments.last().map(|last| last.ident.to_string()));
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_impl_item_fn(&mut self, function: &'a syn::ImplItemFn) {
        if !function.attrs.iter().any(is_for_tests) {
            visit::visit_impl_item_fn(self, function);
        }
    }

    fn visit_item_use(&mut self, item: &'a syn::ItemUse) {
        self.import(&[], &item.tree, !matches!(item.vis, syn::Visibility::Inherited));
    }

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.paths.push((self.full(names), false));
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, called: &'a syn::Macro) {
        let text = called.tokens.to_string().replace(" :: ", "::");
        let paths = text.split(|c: char| !(c.is_alphanumeric() || "_:".contains(c))).filter(|path| path.contains("::"));
        for path in paths {
            self.paths.push((self.full(path.split("::").map(str::to_owned).collect()), false));
        }
        visit::visit_macro(self, called);
    }
}

/// `#[cfg(test)]`.
fn is_for_tests(attribute: &syn::Attribute) -> bool {
    attribute.path().is_ident("cfg")
        && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
}

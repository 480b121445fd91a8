//! The order of the rooms. In a tree whose modules import each other in circles a change in one of them
//! reaches all: the list in `docs/architecture.md` is the order of the floors, top first, and this test holds
//! the imports of `src/` against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemUse, UseTree, Visibility};

/// A module's path below the crate, such as `["serve", "admin"]`; empty for `lib.rs`.
type Module = Vec<String>;

/// One source file.
#[derive(Default)]
struct Source {
    /// What it names: paths from the crate's root.
    uses: BTreeSet<Vec<String>>,
    /// What it passes on: name → path from the crate's root. A face of a room (`mod.rs`)
    /// mostly consists of these.
    exports: BTreeMap<String, Vec<String>>,
}

/// Reads one file's imports.
struct Reader<'a> {
    module: &'a Module,
    source: Source,
}

/// Every file of `src/` but `main.rs` and tests.
fn sources() -> BTreeMap<Module, Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let module = module(path.strip_prefix(&root).unwrap());
            if module
                .last()
                .is_some_and(|name| name == "tests" || name == "main")
            {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.insert(module.clone(), read(&path, &module));
            }
        }
    }
    found
}

fn module(path: &Path) -> Module {
    let mut names: Module = path
        .with_extension("")
        .iter()
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    if path.extension().is_some() && matches!(names.last().map(String::as_str), Some("mod" | "lib")) {
        names.pop();
    }
    names
}

fn read(path: &PathBuf, module: &Module) -> Source {
    let file = syn::parse_file(&fs::read_to_string(path).unwrap()).unwrap();
    let mut reader = Reader {
        module,
        source: Source::default(),
    };
    reader.visit_file(&file);
    reader.source
}

impl Reader<'_> {
    /// The path from the crate's root; `None` for another crate's.
    fn absolute(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        let mut base = match first.as_str() {
            "crate" => vec![],
            "self" => self.module.clone(),
            "super" => self.module[..self.module.len().checked_sub(1)?].to_vec(),
            _ => return None,
        };
        for name in rest {
            match name.as_str() {
                "super" => drop(base.pop()),
                "self" => {}
                _ => base.push(name.clone()),
            }
        }
        Some(base)
    }

    fn leaves(&mut self, tree: &UseTree, prefix: &mut Vec<String>, passed_on: bool) {
        match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.leaves(&path.tree, prefix, passed_on);
                prefix.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.leaves(tree, prefix, passed_on);
                }
            }
            UseTree::Name(name) => self.leaf(prefix, &name.ident.to_string(), None, passed_on),
            UseTree::Rename(name) => {
                let alias = name.rename.to_string();
                self.leaf(prefix, &name.ident.to_string(), Some(alias), passed_on);
            }
            _ => self.leaf(prefix, "self", None, passed_on),
        }
    }

    fn leaf(&mut self, prefix: &[String], name: &str, alias: Option<String>, passed_on: bool) {
        let path = [prefix, &[name.to_owned()]].concat();
        let Some(path) = self.absolute(&path) else { return };
        if passed_on {
            let name = alias.or_else(|| path.last().cloned()).unwrap();
            self.source.exports.insert(name, path);
        } else {
            self.source.uses.insert(path);
        }
    }
}

impl<'a> Visit<'a> for Reader<'_> {
    fn visit_item(&mut self, item: &'a Item) {
        let attributes: &[Attribute] = match item {
            Item::Mod(item) => &item.attrs,
            Item::Fn(item) => &item.attrs,
            Item::Use(item) => &item.attrs,
            Item::Impl(item) => &item.attrs,
            _ => &[],
        };
        let of_tests = |attribute: &Attribute| {
            let list = attribute.meta.require_list();
            attribute.path().is_ident("cfg") && list.is_ok_and(|list| list.tokens.to_string() == "test")
        };
        if !attributes.iter().any(of_tests) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'a ItemUse) {
        let passed_on = !matches!(item.vis, Visibility::Inherited);
        self.leaves(&item.tree, &mut Vec::new(), passed_on);
    }

    /// `pub(super)` needs nothing of its parent.
    fn visit_visibility(&mut self, _: &'a Visibility) {}

    fn visit_path(&mut self, path: &'a syn::Path) {
        let names: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        if let Some(path) = self.absolute(&names) {
            self.source.uses.insert(path);
        }
        visit::visit_path(self, path);
    }
}

/// The module that defines what `path` names: what a face passes on is its definer's.
fn definer(sources: &BTreeMap<Module, Source>, path: &[String]) -> Module {
    let mut length = path.len();
    while !sources.contains_key(&path[..length]) {
        length -= 1;
    }
    let (module, rest) = path.split_at(length);
    match rest.first().and_then(|name| sources[module].exports.get(name)) {
        Some(passed_on) if passed_on.starts_with(path) => module.to_vec(),
        Some(passed_on) => definer(sources, passed_on),
        None => module.to_vec(),
    }
}

/// The rooms in the order of the table in `docs/architecture.md`.
fn floors() -> Vec<String> {
    let text = include_str!("../../docs/architecture.md");
    let (_, table) = text.split_once("| room | what is in it |").unwrap();
    table
        .lines()
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name.trim_end_matches('/').trim_end_matches(".rs").to_owned())
        .collect()
}

/// Seen red: with one `use crate::serve::Instance;` added in `src/gate/mod.rs`.
#[test]
fn every_import_between_rooms_points_down() {
    let (sources, floors) = (sources(), floors());
    let floor = |module: &Module| floors.iter().position(|room| module.first() == Some(room));
    let rooms: BTreeSet<&String> = sources.keys().filter_map(|module| module.first()).collect();
    assert_eq!(
        rooms,
        floors.iter().collect(),
        "docs/architecture.md lists every room of src/, and no other"
    );
    let mut up = Vec::new();
    for (module, source) in &sources {
        for path in &source.uses {
            let target = definer(&sources, path);
            if module.first() != target.first() && floor(module) > floor(&target) && !target.is_empty() {
                up.push(format!("{} uses {}", module.join("::"), path.join("::")));
            }
        }
    }
    assert!(up.is_empty(), "these imports point up:\n{}", up.join("\n"));
}

/// Seen red: with `use super::port::TlsPort;` added in `src/listen/accept.rs`.
#[test]
fn no_two_files_of_a_room_need_each_other() {
    let sources = sources();
    let mut needs: BTreeMap<&Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, source) in sources.iter().filter(|(module, _)| !module.is_empty()) {
        let within = |target: &Module| target.first() == module.first() && target != module;
        let targets = source
            .uses
            .iter()
            .map(|path| definer(&sources, path))
            .filter(within);
        needs.insert(module, targets.collect());
    }
    let reached_from = |start: &Module| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(module) = next.pop() {
            for target in needs.get(&module).into_iter().flatten() {
                if reached.insert(target.clone()) {
                    next.push(target.clone());
                }
            }
        }
        reached
    };
    let mut circles = Vec::new();
    for (module, targets) in &needs {
        let closing = targets
            .iter()
            .filter(|target| reached_from(target).contains(*module));
        circles.extend(closing.map(|target| format!("{} needs {}", module.join("::"), target.join("::"))));
    }
    assert!(
        circles.is_empty(),
        "these files need each other:\n{}",
        circles.join("\n")
    );
}

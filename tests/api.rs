//! The public API as a text: a change to it is a change to `tests/snapshots`, which someone reads.
//!
//! rustdoc's JSON would say more and needs a nightly compiler. This test reads `src/` from lib.rs
//! on: what it exports, with the fields, variants and methods that are public, and no bodies. It
//! knows no macros and no glob imports.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use syn::{Attribute, File, ImplItem, Item, Type, UseTree, Visibility};

/// The path of a module without `crate`.
type Module = Vec<String>;

#[test]
fn public_api_is_as_agreed() {
    let mut api = Api::default();
    read(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path(), &[], &mut api.modules);
    let root = api.exported(&vec![]);
    let text = prettyplease::unparse(&File {
        shebang: None,
        frontmatter: None,
        attrs: vec![],
        items: root,
    });
    insta::with_settings!({ prepend_module_to_snapshot => false }, {
        insta::assert_snapshot!("public_api", text);
    });
}

#[derive(Default)]
struct Api {
    modules: BTreeMap<Module, Vec<Item>>,
    /// Methods are written after a type once, also where it is exported twice.
    written: BTreeSet<(Module, String)>,
}

/// Every file below a folder, and its modules with a body, without tests.
fn read(folder: &Path, module: &[String], modules: &mut BTreeMap<Module, Vec<Item>>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut of = module.to_vec();
        if path.is_dir() {
            of.push(name);
            read(&path, &of, modules);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            if !matches!(name.as_str(), "lib" | "mod") {
                of.push(name);
            }
            let file = syn::parse_file(&std::fs::read_to_string(&path).unwrap()).unwrap();
            insert(of, file.items, modules);
        }
    }
}

fn insert(module: Module, items: Vec<Item>, modules: &mut BTreeMap<Module, Vec<Item>>) {
    let items: Vec<Item> =
        items.into_iter().filter(|item| !is_for_tests(attributes(item))).collect();
    for item in &items {
        if let Item::Mod(inner) = item
            && let Some((_, inner_items)) = &inner.content
        {
            let of = [&module[..], &[inner.ident.to_string()]].concat();
            insert(of, inner_items.clone(), modules);
        }
    }
    modules.insert(module, items);
}

impl Api {
    /// The exports of a module, as items without bodies.
    fn exported(&mut self, module: &Module) -> Vec<Item> {
        let mut found = Vec::new();
        for item in self.modules[module].clone() {
            match &item {
                Item::Use(import) if is_public(&import.vis) => {
                    for (path, name) in paths(&import.tree) {
                        match self.resolve(module, &path) {
                            Some((of, defined)) => {
                                assert_eq!(defined, name, "an export under another name");
                                found.extend(self.definition(&of, &defined));
                            }
                            None => found.push(item.clone()),
                        }
                    }
                }
                Item::Mod(inner) if is_public(&inner.vis) => {
                    let of = [&module[..], &[inner.ident.to_string()]].concat();
                    let mut inner = inner.clone();
                    inner.attrs.retain(|attribute| attribute.path().is_ident("cfg"));
                    inner.content = Some((Default::default(), self.exported(&of)));
                    inner.semi = None;
                    found.push(Item::Mod(inner));
                }
                Item::Mod(_) => {}
                _ => {
                    if let Some(name) = name_of_public(&item) {
                        found.extend(self.definition(module, &name));
                    }
                }
            }
        }
        found.sort_by_key(|item| matches!(item, Item::Mod(_)));
        found
    }

    /// An item of a module, and where it is a type its public methods and its traits.
    fn definition(&mut self, module: &Module, name: &str) -> Vec<Item> {
        let items = &self.modules[module];
        let is_it = |item: &&Item| name_of_public(item).is_some_and(|found| found == name);
        let mut found: Vec<Item> = items.iter().filter(is_it).cloned().map(bare).collect();
        if !self.written.insert((module.clone(), name.to_owned())) {
            return found;
        }
        for (of, items) in &self.modules {
            for item in items {
                let Item::Impl(block) = item else { continue };
                let Type::Path(on) = &*block.self_ty else { continue };
                let path: Vec<String> =
                    on.path.segments.iter().map(|segment| segment.ident.to_string()).collect();
                if self.resolve(of, &path) == Some((module.clone(), name.to_owned()))
                    && let Some(block) = bare_impl(block.clone())
                {
                    found.push(block);
                }
            }
        }
        found
    }

    /// The module that defines what a path in `module` means, and its name there.
    fn resolve(&self, module: &Module, path: &[String]) -> Option<(Module, String)> {
        let (first, rest) = path.split_first()?;
        if rest.is_empty() {
            let items = self.modules.get(module)?;
            if items.iter().any(|item| name_of(item).is_some_and(|name| name == *first)) {
                return Some((module.clone(), first.clone()));
            }
            let imports = items.iter().filter_map(|item| match item {
                Item::Use(import) => Some(paths(&import.tree)),
                _ => None,
            });
            let (path, _) =
                imports.flatten().find(|(path, name)| name == first && path.len() > 1)?;
            return self.resolve(module, &path);
        }
        let of = match first.as_str() {
            "crate" => vec![],
            "self" => module.clone(),
            "super" => module.split_last()?.1.to_vec(),
            child => [&module[..], &[child.to_owned()]].concat(),
        };
        self.modules.get(&of)?;
        self.resolve(&of, rest)
    }
}

/// Each path that a `use` names, and the name it gets.
fn paths(tree: &UseTree) -> Vec<(Vec<String>, String)> {
    let with = |first: String, rest: Vec<(Vec<String>, String)>| {
        rest.into_iter().map(move |(path, name)| ([vec![first.clone()], path].concat(), name))
    };
    match tree {
        UseTree::Path(path) => with(path.ident.to_string(), paths(&path.tree)).collect(),
        UseTree::Name(name) => vec![(vec![name.ident.to_string()], name.ident.to_string())],
        UseTree::Rename(name) => vec![(vec![name.ident.to_string()], name.rename.to_string())],
        UseTree::Group(group) => group.items.iter().flat_map(paths).collect(),
        _ => vec![],
    }
}

fn is_public(visibility: &Visibility) -> bool {
    matches!(visibility, Visibility::Public(_))
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string().contains("test"))
    })
}

/// Applies an expression to whichever item has a name, a visibility and attributes.
macro_rules! of_item {
    ($item:expr, $of:ident => $found:expr, $else:expr) => {
        match $item {
            Item::Const($of) => $found,
            Item::Enum($of) => $found,
            Item::Struct($of) => $found,
            Item::Trait($of) => $found,
            Item::Type($of) => $found,
            _ => $else,
        }
    };
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Fn(of) => &of.attrs,
        Item::Impl(of) => &of.attrs,
        Item::Mod(of) => &of.attrs,
        Item::Use(of) => &of.attrs,
        _ => of_item!(item, of => &of.attrs, &[]),
    }
}

fn name_of(item: &Item) -> Option<String> {
    match item {
        Item::Fn(of) => Some(of.sig.ident.to_string()),
        _ => of_item!(item, of => Some(of.ident.to_string()), None),
    }
}

fn name_of_public(item: &Item) -> Option<String> {
    let visibility = match item {
        Item::Fn(of) => &of.vis,
        _ => of_item!(item, of => &of.vis, return None),
    };
    if is_public(visibility) { name_of(item) } else { None }
}

/// Attributes that a caller notices.
fn keep(attributes: &mut Vec<Attribute>) {
    let kept = ["cfg", "derive", "must_use", "non_exhaustive", "deprecated", "default"];
    attributes.retain(|attribute| kept.iter().any(|name| attribute.path().is_ident(name)));
}

/// Without docs, bodies, values and private fields.
fn bare(mut item: Item) -> Item {
    match &mut item {
        Item::Fn(of) => {
            of.block.stmts.clear();
            keep(&mut of.attrs);
        }
        Item::Enum(of) => {
            for variant in &mut of.variants {
                keep(&mut variant.attrs);
                variant.fields.iter_mut().for_each(|field| keep(&mut field.attrs));
            }
        }
        Item::Struct(of) => {
            of.fields.iter_mut().for_each(|field| keep(&mut field.attrs));
            if let syn::Fields::Named(fields) = &mut of.fields {
                let public = std::mem::take(&mut fields.named).into_iter();
                fields.named = public.filter(|field| is_public(&field.vis)).collect();
            }
        }
        _ => {}
    }
    if let Item::Enum(_) | Item::Struct(_) | Item::Const(_) | Item::Trait(_) | Item::Type(_) = item
    {
        of_item!(&mut item, of => keep(&mut of.attrs), {});
    }
    item
}

/// Public methods, or the trait's name; `None` where nothing is public.
fn bare_impl(mut block: syn::ItemImpl) -> Option<Item> {
    keep(&mut block.attrs);
    if block.trait_.is_some() {
        block.items.clear();
        return Some(Item::Impl(block));
    }
    block.items.retain_mut(|item| match item {
        ImplItem::Fn(of) => {
            of.block.stmts.clear();
            keep(&mut of.attrs);
            is_public(&of.vis)
        }
        ImplItem::Const(of) => {
            keep(&mut of.attrs);
            is_public(&of.vis)
        }
        _ => false,
    });
    (!block.items.is_empty()).then_some(Item::Impl(block))
}

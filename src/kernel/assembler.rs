//! Puts a WGSL module together from the files of `shaders/`.
//!
//! The first lines of a file declare what it uses: `import tile::{Tile, apply};`, in the notation
//! of
//! [WESL](https://wesl-lang.dev). A name before `::` is a file, or an interface that the config, the
//! layout or the update rule decide; `constants` are the numbers of the module. A loop under
//! `@unroll` is written out; under `@unroll(NAME)` only where it has at most as many iterations as
//! the number NAME; under `@once(NAME)` only where the number NAME is 1, since a loop of one
//! iteration still makes a compiler carry the tile of mu around it. Everything else is plain WGSL
//! and comes out as it went in.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::shaders;

/// A number of a module, declared as a `const`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// `u32`.
    U32(u32),
    /// `f32`.
    F32(f32),
    /// `bool`.
    Bool(bool),
}

/// The numbers of a module, by name.
pub(crate) type Numbers = Vec<(&'static str, Number)>;

/// The numbers of bindings that a call does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Unbound(u64);

impl Unbound {
    pub(crate) fn new(bindings: impl IntoIterator<Item = u32>) -> Self {
        Self(bindings.into_iter().fold(0, |all, binding| all | 1u64 << binding))
    }

    pub(crate) fn has(self, binding: u32) -> bool {
        self.0 >> binding & 1 == 1
    }
}

/// The files of a module and what is put in their place.
pub(crate) struct Parts<'a> {
    /// The file with the entry point.
    pub(crate) root: &'static str,
    /// The file of each interface.
    pub(crate) interfaces: &'a [(&'static str, &'static str)],
    /// The text of the interface `custom_map`, where it is the caller's own.
    pub(crate) custom_map: Option<&'a str>,
    /// Every number that a file may import.
    pub(crate) numbers: &'a Numbers,
    /// Bindings that the module has as variables of its own.
    pub(crate) unbound: Unbound,
}

/// A module, and the origin of each of its lines.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    /// The text.
    pub(crate) wgsl: String,
    /// The file and line of each line of the text.
    origins: Vec<(&'static str, usize)>,
    /// The files it is made of.
    #[cfg(test)]
    pub(crate) files: Vec<&'static str>,
}

/// The name under which errors cite a caller's own feature map.
const CUSTOM: &str = "custom map";

impl Parts<'_> {
    /// The module: the root first, then what it imports, then the numbers.
    pub(crate) fn assemble(&self) -> Module {
        let (numbers, unbound) = (self.numbers, self.unbound);
        let mut writer = Writer { numbers, unbound, wgsl: String::new(), origins: Vec::new() };
        let (mut files, mut used) = (vec![self.root], BTreeSet::new());
        let mut next = 0;
        while let Some(file) = files.get(next).copied() {
            next += 1;
            let text = self.text(file);
            for (from, names) in shaders::text(file).lines().filter_map(import) {
                if from == "constants" {
                    used.extend(names);
                    continue;
                }
                let resolved = self.resolve(from);
                if !files.contains(&resolved) {
                    files.push(resolved);
                }
            }
            writer.file(file, text);
        }
        for (name, number) in self.numbers.iter().filter(|(name, _)| used.contains(name)) {
            let line = match number {
                Number::U32(x) => format!("const {name}: u32 = {x}u;"),
                Number::F32(x) => format!("const {name}: f32 = {x:?}f;"),
                Number::Bool(x) => format!("const {name}: bool = {x};"),
            };
            writer.line("constants", 0, &line);
        }
        Module {
            wgsl: writer.wgsl,
            origins: writer.origins,
            #[cfg(test)]
            files,
        }
    }

    fn resolve(&self, name: &'static str) -> &'static str {
        if name == "custom_map" && self.custom_map.is_some() {
            return CUSTOM;
        }
        let interface = self.interfaces.iter().find(|(interface, _)| *interface == name);
        interface.map_or(name, |(_, file)| *file)
    }

    fn text(&self, file: &'static str) -> &str {
        match self.custom_map {
            Some(text) if file == CUSTOM => text,
            _ => shaders::text(file),
        }
    }
}

/// The file or interface of an import, and its names.
pub(crate) fn import(line: &str) -> Option<(&str, Vec<&str>)> {
    let (from, names) = line.strip_prefix("import ")?.split_once("::")?;
    let names = names.strip_prefix('{')?.strip_suffix("};")?;
    Some((from, names.split(", ").collect()))
}

impl Module {
    /// Declares bindings as read alone.
    pub(crate) fn read_only(&mut self, names: &[&str]) {
        for name in names {
            let declared = format!("var<storage, read_write> {name}:");
            self.wgsl = self.wgsl.replace(&declared, &format!("var<storage, read> {name}:"));
        }
    }

    /// A compiler's message with each `wgsl:line` in it replaced by the file and its line.
    pub(crate) fn locate(&self, message: &str) -> String {
        let mut located = String::with_capacity(message.len());
        let mut rest = message;
        while let Some((before, after)) = rest.split_once("wgsl:") {
            located.push_str(before);
            let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
            let line = after[..digits].parse::<usize>().ok();
            match line.and_then(|line| self.origins.get(line.checked_sub(1)?)) {
                Some((file, line)) => {
                    // Nothing can fail when a string is written to.
                    let _ = write!(located, "{file}:{line}");
                }
                None => {
                    located.push_str("wgsl:");
                    located.push_str(&after[..digits]);
                }
            }
            rest = &after[digits..];
        }
        located + rest
    }
}

struct Writer<'a> {
    numbers: &'a Numbers,
    unbound: Unbound,
    wgsl: String,
    origins: Vec<(&'static str, usize)>,
}

impl Writer<'_> {
    fn line(&mut self, file: &'static str, number: usize, line: &str) {
        self.wgsl.push_str(line);
        self.wgsl.push('\n');
        self.origins.push((file, number));
    }

    fn file(&mut self, file: &'static str, text: &str) {
        self.line(file, 0, &format!("// ---- {file}"));
        let lines: Vec<(usize, String)> = text
            .lines()
            .enumerate()
            .filter(|(_, line)| import(line).is_none())
            .map(|(number, line)| (number + 1, self.declaration(line)))
            .collect();
        self.block(file, &lines);
    }

    /// A line, but for a binding that the call does not have: a binding counts against the device's
    /// limit, whether or not a shader reaches it.
    fn declaration(&self, line: &str) -> String {
        let found = array_binding(line).filter(|(binding, ..)| self.unbound.has(*binding));
        match found {
            Some((_, name, element)) => format!("var<private> {name}: array<{element}, 1>;"),
            None => line.to_owned(),
        }
    }

    /// Lines as they are, but for loops that are unrolled.
    fn block(&mut self, file: &'static str, lines: &[(usize, String)]) {
        let mut rest = lines;
        while let Some(((number, line), after)) = rest.split_first() {
            rest = after;
            let once = argument(line.trim(), "@once(");
            if once.is_some_and(|name| self.number(name) != Some(1)) {
                continue;
            }
            let most = match line.trim() {
                "@unroll" => Some(u32::MAX),
                line => argument(line, "@unroll(").and_then(|most| self.number(most)),
            };
            if once.is_none() && most.is_none() {
                self.line(file, *number, line);
                continue;
            }
            let Some((variable, bound, len)) = loop_at(rest) else { continue };
            if once.is_none() && self.number(bound) > most {
                // The loop itself comes next.
                continue;
            }
            let body = body_of(&rest[..len]);
            if once.is_some() {
                self.line(file, *number, &format!("{{ let {variable} = 0u;"));
                self.block(file, &body);
                self.line(file, *number, "}");
            } else {
                for i in 0..self.number(bound).unwrap_or(0) {
                    let by = format!("{i}u");
                    let unrolled: Vec<_> = body
                        .iter()
                        .map(|(number, line)| (*number, replace_word(line, variable, &by)))
                        .collect();
                    self.line(file, *number, "{");
                    self.block(file, &unrolled);
                    self.line(file, *number, "}");
                }
            }
            rest = &rest[len..];
        }
    }

    /// A number of the module, or a literal such as `4u`.
    fn number(&self, text: &str) -> Option<u32> {
        let number = self.numbers.iter().find(|(name, _)| *name == text).map(|(_, n)| *n);
        match number {
            Some(Number::U32(n)) => Some(n),
            _ => text.strip_suffix('u')?.parse().ok(),
        }
    }
}

/// The text in the parentheses of an attribute.
fn argument<'a>(line: &'a str, attribute: &str) -> Option<&'a str> {
    line.strip_prefix(attribute)?.strip_suffix(')')
}

/// The number, the name and the elements of `@group(0) @binding(5) var<storage, read_write> name:
/// array<element>;`.
fn array_binding(line: &str) -> Option<(u32, &str, &str)> {
    let (number, rest) = line.strip_prefix("@group(0) @binding(")?.split_once(") ")?;
    let (name, rest) = rest.strip_prefix("var<storage, read_write> ")?.split_once(": array<")?;
    let (element, _) = rest.split_once(">;")?;
    Some((number.parse().ok()?, name, element))
}

/// The variable, the bound and the lines of `for (var i = 0u; i < N; i++) { .. }`.
fn loop_at(lines: &[(usize, String)]) -> Option<(&str, &str, usize)> {
    let head = lines.first()?.1.trim().strip_prefix("for (var ")?;
    let (variable, rest) = head.split_once(" = 0u; ")?;
    let (_, rest) = rest.split_once(" < ")?;
    let (bound, _) = rest.split_once(';')?;
    let mut depth = 0;
    for (i, (_, line)) in lines.iter().enumerate() {
        depth += line.matches('{').count();
        depth = depth.saturating_sub(line.matches('}').count());
        if depth == 0 {
            return Some((variable, bound, i + 1));
        }
    }
    None
}

/// The text between a loop's braces, on one line or on several.
fn body_of(lines: &[(usize, String)]) -> Vec<(usize, String)> {
    if let [(number, line)] = lines {
        let body = line.split_once(") {").map_or("", |(_, body)| body.trim_end());
        return vec![(*number, body.strip_suffix('}').unwrap_or(body).to_owned())];
    }
    lines.get(1..lines.len().saturating_sub(1)).unwrap_or_default().to_vec()
}

/// `line` with each whole word `word` replaced.
fn replace_word(line: &str, word: &str, by: &str) -> String {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut replaced = String::with_capacity(line.len());
    let mut rest = line;
    while !rest.is_empty() {
        let len = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let is_member = replaced.ends_with('.');
        replaced.push_str(if &rest[..len] == word && !is_member { by } else { &rest[..len] });
        let gap = rest[len..].find(is_part).unwrap_or(rest.len() - len);
        replaced.push_str(&rest[len..len + gap]);
        rest = &rest[len + gap..];
    }
    replaced
}

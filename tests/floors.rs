//! The folders of `src/` are floors: an import goes to the same floor or to one below, and never
//! through the crate's root.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::{Path, PathBuf};

/// The top floor first. `lib.rs`, the roof, is imported by nobody.
const FLOORS: [&[&str]; 13] = [
    &["verify", "tune", "run"],
    &["backward"],
    &["attention"],
    &["bind"],
    &["cpu"],
    &["pieces"],
    &["serve"],
    &["reference"],
    &["plan"],
    &["kernel"],
    &["problem"],
    &["device"],
    &["error", "shaders"],
];

fn floor(name: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&name))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let of = |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path] };
    entries.flat_map(of).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

#[test]
fn imports_go_down() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for path in files(&src) {
        let path = path.strip_prefix(&src).unwrap();
        let name = path.iter().next().and_then(|name| Path::new(name).file_stem()).unwrap();
        let Some(from) = floor(name.to_str().unwrap()) else {
            assert_eq!(path, Path::new("lib.rs"), "a file of no floor");
            continue;
        };
        let text = std::fs::read_to_string(src.join(path)).unwrap();
        // Tests, which come last in a file, may use all of the crate.
        let code = text.split("#[cfg(test)]\n").next().unwrap_or_default();
        let code: Vec<_> =
            code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
        for to in code.join("\n").split("crate::").skip(1) {
            let to = to.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
            if floor(to).is_none_or(|to| to < from) {
                wrong.push(format!("{}: crate::{to}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up, or through the root: {wrong:#?}");
}

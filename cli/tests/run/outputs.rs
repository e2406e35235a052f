//! Files appear whole or not at all.

use std::fs;
use std::process::Command;

use crate::common::{Found, Tensor, encode, names, refused, run, scratch, tiny};

/// Runs the program where no file may have more than a block of the shell's, 1 KiB at most.
fn run_with_short_files(arguments: &[&str]) -> Found {
    let limited = r#"trap '' XFSZ; ulimit -f 1; exec "$0" "$@""#;
    let program = env!("CARGO_BIN_EXE_linear-attention");
    Found::of(Command::new("sh").args(["-c", limited, program]).args(arguments))
}

#[test]
fn a_write_that_fails_leaves_what_was_there() {
    let (_guard, directory) = scratch();
    let (input, output) = (directory.join("in"), directory.join("out"));
    let long = Tensor::zeros(&[1, 512, 1, 2]);
    fs::write(&input, encode(&["q", "k", "v"].map(|name| (name, long.clone())))).unwrap();
    let paths = [input.to_str().unwrap(), "-o", output.to_str().unwrap(), "--reference"];
    let arguments = [&["run"][..], &paths].concat();
    let found = run_with_short_files(&arguments);
    assert_eq!(found.status, 1, "{}", found.stderr);
    let named = format!("--output {}: cannot be written", output.display());
    assert!(found.stderr.contains(&named) && found.stderr.lines().count() == 1, "{}", found.stderr);
    assert!(!found.stdout.contains("wrote"), "{}", found.stdout);
    assert_eq!(names(&directory), ["in"], "no output appears, nor a part of one");

    fs::write(&output, "before").unwrap();
    assert_eq!(run_with_short_files(&arguments).status, 1);
    assert_eq!(fs::read_to_string(&output).unwrap(), "before");
    assert_eq!(run(&arguments).status, 0);
    assert!(fs::read(&output).unwrap().len() > 4096);
    let mut found = names(&directory);
    found.sort();
    assert_eq!(found, ["in", "out"], "nothing temporary is left");
}

/// Input that is refused changes no file of an earlier run.
#[test]
fn a_refusal_leaves_what_was_there() {
    let (_guard, directory) = scratch();
    let (input, output) = (directory.join("in"), directory.join("out"));
    fs::write(&input, encode(&tiny()[..2])).unwrap();
    fs::write(&output, "before").unwrap();
    let paths = [input.to_str().unwrap(), "-o", output.to_str().unwrap(), "--reference"];
    refused(&[&["run"][..], &paths].concat());
    assert_eq!(fs::read_to_string(&output).unwrap(), "before");
}

/// A link stays one, and the file that it points at is replaced.
#[test]
fn links_are_followed() {
    let (_guard, directory) = scratch();
    let [input, output, link] = ["in", "out", "link"].map(|name| directory.join(name));
    fs::write(&input, encode(&tiny())).unwrap();
    fs::write(&output, "before").unwrap();
    std::os::unix::fs::symlink(&output, &link).unwrap();
    let paths = [input.to_str().unwrap(), "-o", link.to_str().unwrap(), "--reference"];
    assert_eq!(run(&[&["run"][..], &paths].concat()).status, 0);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read(&output).unwrap(), fs::read(&link).unwrap());
    assert_ne!(fs::read(&output).unwrap(), b"before");
}

/// `linear-attention adapters | head`: as for other programs, and no panic.
#[cfg(unix)]
#[test]
fn a_reader_that_has_gone_ends_the_program() {
    use std::os::unix::process::ExitStatusExt;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut program = Command::new(env!("CARGO_BIN_EXE_linear-attention"));
    let output = program.arg("adapters").stdout(writer).output().unwrap();
    const SIGPIPE: i32 = 13;
    assert_eq!(output.status.signal(), Some(SIGPIPE), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stderr).contains("panic"), "{output:?}");
}

//! The examples end well: each checks its own result and fails where it is wrong.
//!
//! `cargo test` builds them before this test; `cargo test --test examples` does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use linear_attention::wgpu;

/// Every example, with arguments that make it short.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("custom_map", &[]),
    ("dump_modules", &["target/modules", "64", "64"]),
    ("from_slices", &[]),
    ("in_your_encoder", &[]),
    ("between_engines", &[]),
    ("long_context", &["32768"]),
    ("long_prompt", &["4096", "32"]),
    ("serve", &["12"]),
    ("streaming", &[]),
];

fn main() {
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("examples::are_all_here", are_all_here)];
    for &(name, given) in EXAMPLES {
        let test = move || ends_well(name, given);
        trials.push(Trial::ignorable_test(format!("examples::{name}"), test));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

fn are_all_here() -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            // A package of its own: scripts/check-frames builds and runs those.
            continue;
        }
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        if EXAMPLES.iter().all(|(example, _)| *example != name) {
            return Err(format!("{name} is not run: it is missing in tests/examples.rs").into());
        }
    }
    Ok(())
}

fn ends_well(name: &str, arguments: &[&str]) -> Result<Completion, Failed> {
    let is_required = std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_some_and(|v| v == "1");
    if !is_required && !has_adapter() {
        return Ok(Completion::ignored_with("no adapter"));
    }
    let output = Command::new(program(name)?).args(arguments).output()?;
    if output.status.success() {
        return Ok(Completion::Completed);
    }
    let [out, err] =
        [output.stdout, output.stderr].map(|x| String::from_utf8_lossy(&x).into_owned());
    Err(format!("{}\n{out}{err}", output.status).into())
}

/// Beside the folder of tests, where cargo has put it.
fn program(name: &str) -> Result<PathBuf, Failed> {
    let test = std::env::current_exe()?;
    let profile = test.ancestors().nth(2).ok_or("a test outside of target/PROFILE/deps")?;
    let file = format!("{name}{}", std::env::consts::EXE_SUFFIX);
    let program = profile.join("examples").join(file);
    if program.is_file() {
        return Ok(program);
    }
    Err(format!("{} is not built: cargo build --examples", program.display()).into())
}

fn has_adapter() -> bool {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default());
    pollster::block_on(adapter).is_ok()
}

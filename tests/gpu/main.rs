//! Every test that needs a device, on every adapter of this machine.
//!
//! `cargo test --test gpu -- FILTER` runs the trials whose name contains `FILTER`. A trial of the
//! full matrix counts as ignored: `--include-ignored` runs all, `--ignored` those alone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

mod adapters;
mod backward;
mod binding;
mod cases;
mod compile;
mod half;
mod key_status;
mod maps;
mod matrices;
mod memory;
mod mutations;
mod onnx;
#[path = "../pieces/mod.rs"]
mod pieces;
mod properties;
mod runner;
mod serving;
mod split;
mod storage_buffers;
mod strides;
mod subjects;
mod submissions;
mod summary;
mod trust;
mod tuning;
mod waiting;

use std::process::ExitCode;
use std::rc::Rc;

use libtest_mimic::Failed;

pub(crate) use subjects::Test;

/// A test on one adapter.
pub(crate) struct Trial {
    /// `adapter::subject::test`.
    name: String,
    /// Trials of a group share pipelines: one process runs them, one after the other.
    group: String,
    /// Its share of the whole time, roughly in tenths of a second on two cores of llvmpipe: the
    /// groups that take longest come first.
    cost: u32,
    /// The full matrix alone has it.
    is_full: bool,
    test: Box<dyn Fn() -> Result<(), Failed>>,
}

fn main() -> ExitCode {
    let (gpus, skipped) = adapters::gpus();
    let is_none = gpus.is_empty();
    let mut trials = Vec::new();
    for gpu in gpus {
        let gpu = Rc::new(gpu);
        trials.extend(cases::trials(&gpu));
        trials.extend(mutations::trials(&gpu));
        trials.extend(subjects::trials(&gpu));
    }
    if runner::is_worker() {
        return runner::serve(&trials);
    }
    for why in &skipped {
        eprintln!("SKIPPED {why}");
    }
    if is_none {
        let required = std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_some_and(|v| v == "1");
        eprintln!(
            "NO ADAPTER FOUND: no GPU test was run. On Debian: apt-get install mesa-vulkan-drivers"
        );
        return ExitCode::from(u8::from(required));
    }
    runner::run(&trials)
}

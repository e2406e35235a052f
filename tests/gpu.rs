//! The harness on every adapter of this machine: one trial a case and adapter.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

mod common;
mod gpu_tests;

use std::sync::{Arc, OnceLock};

use common::Gpu;
use libtest_mimic::{Arguments, Failed, Trial};
use linear_attention::tuning::{Layout, Tuning};
use linear_attention::verify::{self, Mutation, Options, Report};
use linear_attention::wgpu::DeviceType;
use linear_attention::{Config, ShaderChecks};

fn main() {
    let arguments = Arguments::from_args();
    let (gpus, skipped) = common::gpus();
    for why in &skipped {
        eprintln!("SKIPPED {why}");
    }
    if gpus.is_empty() {
        let required = std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_some_and(|v| v == "1");
        eprintln!(
            "NO ADAPTER FOUND: no GPU test was run. On Debian: apt-get install mesa-vulkan-drivers"
        );
        std::process::exit(i32::from(required));
    }
    let trials = gpus.into_iter().flat_map(|gpu| trials(&Arc::new(gpu))).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn trials(gpu: &Arc<Gpu>) -> Vec<Trial> {
    // A software device compiles slowly, so a run's pipelines serve all its cases: the
    // first trial of a run makes the report, the others read their rows.
    let mut runs: Vec<Vec<Trial>> = Vec::new();
    let mut add_run = |kind: &str, options: Options| {
        let report = Arc::new(OnceLock::new());
        let mut trials = Vec::new();
        for case in verify::cases_of_run(&gpu.device.limits(), &options) {
            let (gpu, report, options) = (Arc::clone(gpu), Arc::clone(&report), options.clone());
            let name = format!("{}::{kind}::{}", gpu.name, case.name);
            trials.push(Trial::test(name, move || {
                let report = report.get_or_init(|| verify::run(&gpu.device, &gpu.queue, &options));
                held(report, case.name)
            }));
        }
        runs.push(trials);
    };
    let with = |edit: &dyn Fn(&mut Options)| {
        let mut options = Options::default();
        options.seed = seed();
        edit(&mut options);
        options
    };
    add_run("checked", with(&|o| o.checks = ShaderChecks::Checked));
    add_run("unchecked", with(&|o| o.checks = ShaderChecks::Unchecked));
    // What a device of the other kind would choose, and what none would.
    let own = Tuning::new(
        &Config::new(64, 64),
        &gpu.device.limits(),
        gpu.device.adapter_info().device_type,
    );
    let others = both_layouts(gpu).into_iter().chain(other_tunings(gpu));
    for (kind, tuning) in
        others.filter(|(_, tuning)| Ok(tuning.layout) != own.clone().map(|o| o.layout))
    {
        add_run(kind, with(&|o| o.tuning = Some(tuning)));
    }

    // The first trials of all runs come first, so that each test thread has a run to make and
    // does not wait for the report of another's.
    let mut trials = Vec::new();
    let mut rests: Vec<_> = runs.into_iter().map(Vec::into_iter).collect();
    trials.extend(rests.iter_mut().filter_map(Iterator::next));

    for (layout, tuning) in both_layouts(gpu) {
        for mutation in Mutation::ALL {
            // A thread on its own maps no rows and takes no F apart.
            use Mutation::{BiasForgotten, BlockForgotten, NormForgotten};
            let is_of_rows = matches!(mutation, BiasForgotten | BlockForgotten | NormForgotten);
            if is_of_rows && layout == "direct" {
                continue;
            }
            let gpu = Arc::clone(gpu);
            let name = format!("{}::caught::{layout}::{mutation:?}", gpu.name);
            // What the library chooses for them is in this layout on any device.
            let tuning = (!is_of_rows).then_some(tuning);
            trials.push(Trial::test(name, move || caught(&gpu, tuning, mutation)));
        }
    }
    trials.extend(gpu_tests::trials(gpu));
    trials.extend(rests.into_iter().flatten());
    trials
}

/// A wrong shader must show in the result of the case that the mistake is for.
fn caught(gpu: &Gpu, tuning: Option<Tuning>, mutation: Mutation) -> Result<(), Failed> {
    let mut options = Options::default();
    options.mutation = Some(mutation);
    options.tuning = tuning;
    options.filter = Some(
        match mutation {
            Mutation::EpsDropped => "large-eps",
            Mutation::StateNotCarried => "t64-state",
            Mutation::MaskedBeforePhi => "k3-v5",
            Mutation::ScanWithoutInitial => "t1000",
            Mutation::SlotIgnored | Mutation::StepNotWritten => "slots-step",
            Mutation::LengthOffByOne => "packed-segments",
            Mutation::BlockForgotten => "blocks",
            Mutation::BiasForgotten => "t2r",
            Mutation::NormForgotten => "favor-hyperbolic",
            _ => "t63",
        }
        .to_owned(),
    );
    let report = verify::run(&gpu.device, &gpu.queue, &options);
    let compared = report.rows.iter().all(|row| row.message.is_empty());
    if report.passed() || report.rows.is_empty() || !compared {
        return Err(Failed::from("a wrong shader was not caught by its result"));
    }
    Ok(())
}

/// Each source of rows has its own shaders, and a device runs one of them unasked: both are mutated
/// on every device.
fn both_layouts(gpu: &Gpu) -> [(&'static str, Tuning); 2] {
    let config = Config::new(64, 64);
    [("workgroup", DeviceType::Other), ("direct", DeviceType::Cpu)].map(|(name, device_type)| {
        (name, Tuning::new(&config, &gpu.device.limits(), device_type).unwrap())
    })
}

/// Layouts that the device would not choose: work items narrower than V, chunks that end in the middle
/// of a token's query rows, one lane, many lanes.
fn other_tunings(gpu: &Gpu) -> Vec<(&'static str, Tuning)> {
    let device_type = gpu.device.adapter_info().device_type;
    let tuning = Tuning::new(&Config::new(64, 64), &gpu.device.limits(), device_type).unwrap();
    let with = |name, layout| (name, tuning.with_layout(layout));
    vec![
        with("narrow", Layout::workgroup(16, 4, 1, 1).with_chunk(3, 5)),
        with("one-lane", Layout::workgroup(64, 4, 8, 4)),
        with("wide-tile", Layout::workgroup(8, 8, 4, 4)),
    ]
}

/// A seed of the day's, unless one is given to repeat a failure.
fn seed() -> u64 {
    let given = std::env::var("LINEAR_ATTENTION_SEED").ok().and_then(|s| s.parse().ok());
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| since.as_secs())
    };
    given.unwrap_or_else(now)
}

fn held(report: &Report, case: &str) -> Result<(), Failed> {
    let rows: Vec<_> = report.rows.iter().filter(|row| row.case == case).collect();
    if rows.is_empty() {
        return Err(Failed::from("the harness has no row of this case"));
    }
    let failed: Vec<_> = rows
        .iter()
        .filter(|row| !row.passed)
        .map(|r| {
            format!(
                "{} {}: error {:e}, mirror's {:e}, {:.2} of the bound {}",
                r.stage, r.tensor, r.error, r.mirror_error, r.ratio, r.message
            )
        })
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Failed::from(format!("seed {}\n{}", report.seed, failed.join("\n"))))
}

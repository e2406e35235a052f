//! The harness's table: each case against f64, as the device would compute it and in the other
//! layouts.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::OnceLock;

use libtest_mimic::Failed;
use linear_attention::tuning::{Layout, Tuning, subgroup_lanes};
use linear_attention::verify::{self, Case, Harness, Options, Row};
use linear_attention::wgpu::DeviceType;
use linear_attention::{Config, LinearAttention, ShaderChecks};

use crate::Trial;
use crate::adapters::Gpu;

/// The cases that the quick level has in the layouts that the device would not choose: a few of
/// each kind, on pipelines that compile fast; of each layout some today and the others on another
/// day.
const IN_OTHER_LAYOUTS: [&str; 7] = [
    "k3-v5",
    "packed-slots-slices",
    "run-odd",
    "f16-odd",
    "bf16-step-odd",
    "exp-run-odd",
    "softmax-odd",
];

/// The same for the layouts with sums by subgroup operations: several lanes of each kind.
const WITH_SUBGROUPS: [&str; 8] = [
    "t65-segments",
    "k17-v33",
    "many-heads",
    "packed-segments",
    "gated-delta-alike",
    "hedgehog",
    "f16",
    "blocks",
];

/// The cases that the full matrix alone has: their wide tiles take a CPU adapter 15 to 30 seconds
/// to compile, and `k256-v256` has the widest; and another case has the same shaders, or other maps.
const FULL: [&str; 28] = [
    "k128-v32",
    "k255-v100",
    "run-wide",
    "gated-delta-wide",
    "backward-packed",
    "backward-gated-constant",
    "backward-exp",
    "backward-f16",
    "backward-t2r",
    "backward-hedgehog-joint",
    "backward-product",
    "backward-favor",
    "backward-fourier",
    "backward-taylor",
    "backward-dpfp",
    "backward-unlike",
    "backward-gated-t2r",
    "backward-gated-softmax",
    "backward-forgets-heads",
    "backward-segments-delta",
    "backward-segments-gated-delta",
    "backward-recurrence-gated-delta",
    "backward-strong-gated-delta",
    "relu-squared-blocks",
    "sigmoid-blocks",
    "hedgehog-joint",
    "gated-sum-run",
    "f16-run-odd",
];

/// One trial a case and way to compute it.
pub(crate) fn trials(gpu: &Rc<Gpu>) -> Vec<Trial> {
    // The choice of a device of the other kind, and layouts that no device would choose.
    let own = Tuning::new(
        &Config::new(64, 64),
        &gpu.device.limits(),
        gpu.device.adapter_info().device_type,
    );
    let others = both_layouts(gpu).into_iter().chain(other_tunings(gpu));
    let others =
        others.filter(|(_, tuning)| Ok(tuning.layout) != own.clone().map(|own| own.layout));
    let others = others.chain(subgroup_tunings(gpu));
    let mut kinds = vec![
        ("checked", ShaderChecks::Checked, None),
        ("unchecked", ShaderChecks::Unchecked, None),
    ];
    kinds.extend(others.map(|(kind, tuning)| (kind, ShaderChecks::default(), Some(tuning))));

    let compiled = Rc::new(RefCell::new(None));
    let mut trials = Vec::new();
    for (kind, checks, tuning) in kinds {
        let mut options = Options::default();
        options.seed = seed();
        options.checks = checks;
        options.tuning = tuning;
        let cases = verify::cases_of_run(&gpu.device.limits(), &options);
        let odd: Vec<_> = cases.iter().filter_map(|case| case.name.strip_suffix("-odd")).collect();
        for case in cases {
            if tuning.is_some_and(|tuning| has_too_many_lanes(gpu, &case.config, tuning)) {
                continue;
            }
            let config = format!("{:?}", case.config);
            let is_full = match kind {
                _ if FULL.contains(&case.name) || is_of_another_day(&case, &odd) => true,
                "checked" => !of_the_day(&config),
                "unchecked" => of_the_day(&config),
                _ => {
                    let is_today = of_the_day(&format!("{kind} {}", case.name));
                    let cases = match kind.starts_with("subgroups") {
                        true => &WITH_SUBGROUPS[..],
                        false => &IN_OTHER_LAYOUTS[..],
                    };
                    !(is_today && cases.contains(&case.name))
                }
            };
            let group = format!("{} {kind} {config}", gpu.name);
            let (gpu, compiled, options) = (Rc::clone(gpu), Rc::clone(&compiled), options.clone());
            trials.push(Trial {
                name: format!("{}::{kind}::{}", gpu.name, case.name),
                group: group.clone(),
                cost: 10,
                is_full,
                test: Box::new(move || {
                    // The pipelines of the last group, of which this trial is or is not.
                    let mut compiled = compiled.borrow_mut();
                    let (_, harness) = match compiled.take() {
                        Some((of, harness)) if of == group => compiled.insert((of, harness)),
                        _ => {
                            let new = Harness::new(&gpu.device, &gpu.queue, &options);
                            compiled.insert((group.clone(), new))
                        }
                    };
                    passed(&harness.check(&case))
                }),
            });
        }
    }
    trials
}

/// Each source of rows has its own shaders, and a device runs one of them unasked: both are tested
/// on every device.
pub(crate) fn both_layouts(gpu: &Gpu) -> [(&'static str, Tuning); 2] {
    let config = Config::new(64, 64);
    [("workgroup", DeviceType::Other), ("direct", DeviceType::Cpu)].map(|(name, device_type)| {
        (name, Tuning::new(&config, &gpu.device.limits(), device_type).unwrap())
    })
}

/// Layouts that the device would not choose: work items narrower than V, chunks that end in the
/// middle of a token's query rows, one lane, many lanes.
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

/// Layouts whose lanes add up by subgroup operations, where the device has them.
pub(crate) fn subgroup_tunings(gpu: &Gpu) -> Vec<(&'static str, Tuning)> {
    if subgroup_lanes(&gpu.device) < 2 {
        return Vec::new();
    }
    let device_type = gpu.device.adapter_info().device_type;
    let mut tuning = Tuning::new(&Config::new(64, 64), &gpu.device.limits(), device_type).unwrap();
    // As on a GPU.
    tuning.rows_ahead = true;
    let with = |name, layout: Layout| (name, tuning.with_layout(layout.with_subgroup_sums(true)));
    vec![
        with("subgroups", Layout::workgroup(16, 4, 16, 8)),
        with("subgroups-narrow", Layout::workgroup(4, 4, 2, 3).with_chunk(3, 5)),
    ]
}

/// True where more lanes share a row than a subgroup of the device has.
fn has_too_many_lanes(gpu: &Gpu, config: &Config, tuning: Tuning) -> bool {
    let options = linear_attention::Options::default().with_tuning(tuning);
    tuning.layout.subgroup_sums
        && LinearAttention::with_options(&gpu.device, config.clone(), &options).is_err()
}

/// Of a case with whole `vec4`s of features and the same with odd ones the quick level has one, and
/// every other of two large families: the backward pass, and maps that are more than a function of
/// an element.
fn is_of_another_day(case: &Case, odd: &[&str]) -> bool {
    let base = case.name.strip_suffix("-odd").unwrap_or(case.name);
    if odd.contains(&base) {
        return of_the_day(base) != case.name.ends_with("-odd");
    }
    let has_map = !case.config.feature_map.is_element_wise();
    (case.is_backward || has_map) && of_the_day(case.name)
}

/// A seed of the day's, unless one is given to repeat a failure.
pub(crate) fn seed() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    let given = || std::env::var("LINEAR_ATTENTION_SEED").ok()?.parse().ok();
    let now = || {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(1, |since| since.as_secs())
    };
    *SEED.get_or_init(|| given().unwrap_or_else(now))
}

/// One of two, by the seed: of two ways to test the same the quick level takes the one today and
/// the other on another day.
pub(crate) fn of_the_day(name: &str) -> bool {
    // FNV-1a, whose lowest bit is the parity of all that went in.
    let bytes = seed().to_le_bytes();
    let hash = bytes.iter().chain(name.as_bytes()).fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3)
    });
    hash >> 40 & 1 == 1
}

/// Tells a worker that the full matrix runs.
pub(crate) const IS_FULL: &str = "LINEAR_ATTENTION_TEST_FULL";

/// The first, the third and so on today, and the others on another day; all in the full matrix.
pub(crate) fn every_other<T, const N: usize>(test: &str, all: [T; N]) -> impl Iterator<Item = T> {
    let (skipped, step) = match std::env::var_os(IS_FULL) {
        Some(_) => (0, 1),
        None => (usize::from(of_the_day(test)), 2),
    };
    all.into_iter().skip(skipped).step_by(step)
}

fn passed(rows: &[Row]) -> Result<(), Failed> {
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
    Err(Failed::from(format!("seed {}\n{}", seed(), failed.join("\n"))))
}

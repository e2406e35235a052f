//! Every way to compute gives the same result, and the fastest of them is found.

use libtest_mimic::Failed;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, Tuning, tune_with};
use linear_attention::verify::{self, Options};
use linear_attention::{Config, Inputs, LinearAttention, Shape, wgpu};

use super::Test;
use super::properties::{close, numbers};
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("tune::every_candidate_of_odd_widths", candidates_of_odd_widths),
    ("tune::every_candidate_of_wide_values", candidates_of_wide_values),
    ("tune::rules_in_workgroups", rules_in_workgroups),
    ("tune::finds_the_fastest", finds_the_fastest),
    ("tune::states_in_a_pool", states_in_a_pool),
    ("tune::is_serialisable", is_serialisable),
];

/// Unequal and odd.
fn candidates_of_odd_widths(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    every_candidate_is_right(gpu, "k17-v33")
}

/// Widths that let tiles be narrower than V.
fn candidates_of_wide_values(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    every_candidate_is_right(gpu, "k32-v128")
}

/// The update rules with their rows in workgroup memory, one lane and several to a row, whatever the
/// device would choose.
fn rules_in_workgroups(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let device_type = gpu.device.adapter_info().device_type;
    let limits = gpu.device.limits();
    const CASES: [&str; 4] =
        ["gated-rows-odd", "gated-sum", "gated-delta-strong", "gated-delta-segments"];
    for case in verify::cases().into_iter().filter(|case| CASES.contains(&case.name)) {
        let of_gpus = Tuning::new(&case.config, &limits, wgpu::DeviceType::Other)?.layout;
        let features = case.config.features().next_multiple_of(4);
        let mut many_lanes = of_gpus;
        many_lanes.rows = (features / 8).next_multiple_of(4).max(4);
        let one_lane = Layout::workgroup(features.min(64), 4, 4, 4);
        for layout in [of_gpus, many_lanes, one_lane] {
            if layout.check(&case.config, &limits).is_err() {
                continue;
            }
            let tuning = Tuning::new(&case.config, &limits, device_type)?.with_layout(layout);
            let options = Options::default().with_tuning(tuning);
            let rows = verify::Harness::new(&gpu.device, &gpu.queue, &options).check(&case);
            if let Some(row) = rows.iter().find(|row| !row.passed) {
                return Err(format!("{} is wrong with {layout:?}: {row:?}", case.name).into());
            }
        }
    }
    Ok(())
}

/// The harness with each candidate of the config that its case has.
fn every_candidate_is_right(gpu: &Gpu, case: &str) -> Result<(), Failed> {
    let of_case = verify::cases().into_iter().find(|c| c.name == case);
    let config = of_case.ok_or("the harness has lost its case")?.config;
    let device_type = gpu.device.adapter_info().device_type;
    let candidates = Tuning::candidates(&config, &gpu.device.limits(), device_type)?;
    if candidates.len() < 4 {
        return Err("a device has more than one way to compute".into());
    }
    let mut seen: Vec<Layout> = Vec::new();
    for tuning in candidates {
        // The case says how many segments there are; layouts alone differ.
        if seen.contains(&tuning.layout) {
            continue;
        }
        seen.push(tuning.layout);
        let options = Options::default().with_filter(case).with_tuning(tuning);
        let report = verify::run(&gpu.device, &gpu.queue, &options);
        if !report.passed() {
            return Err(format!("{case} is wrong with {tuning:?}: {:?}", report.rows).into());
        }
    }
    Ok(())
}

fn finds_the_fastest(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::new(1, 300, 2);
    let mut calls = 0;
    let measured = tune_with(&gpu.device, &gpu.queue, a.config(), &shape, &mut |_| calls += 1)?;
    if measured.len() != calls || measured.is_empty() {
        return Err("a candidate was not reported".into());
    }
    if measured[0].tuning != *a.tuning() {
        return Err("the first candidate is what a device gets unasked".into());
    }
    if measured.iter().any(|candidate| candidate.time.is_zero()) {
        return Err("a candidate took no time".into());
    }
    // Every plan is another.
    for (i, x) in measured.iter().enumerate() {
        if measured[i + 1..].iter().any(|y| x.tuning == y.tuning) {
            return Err("a candidate was measured twice".into());
        }
    }
    let best = measured.iter().min_by_key(|candidate| candidate.time);
    let options = linear_attention::Options::default().with_tuning(best.map(|best| best.tuning));
    let tuned = LinearAttention::with_options(&gpu.device, a.config().clone(), &options)?;
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(300 * 2 * 16, salt));
    let inputs = Inputs::new(&q, &k, &v);
    let found = tuned.run(&gpu.queue, &shape, inputs)?;
    let expected = a.run(&gpu.queue, &shape, inputs)?;
    close("o", &expected.o, &found.o)
}

/// What a buffer tells is there when a candidate is measured.
fn states_in_a_pool(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    for shape in [
        Shape::new(3, 1, 2).with_slots(4),
        Shape::packed_up_to(PackedLimits { sequences: 3, tokens: 90, max_len: 40 }, 2)
            .with_slots(4),
        Shape::packed_up_to(PackedLimits { sequences: 3, tokens: 90, max_len: 40 }, 2),
        Shape::packed(&[30, 0, 60], 2).with_slots(2),
    ] {
        let measured = tune_with(&gpu.device, &gpu.queue, a.config(), &shape, &mut |_| {})?;
        if measured.is_empty() {
            return Err(format!("nothing was measured of {shape:?}").into());
        }
    }
    Ok(())
}

fn is_serialisable(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(64, 64);
    let limits = gpu.device.limits();
    for tuning in Tuning::candidates(&config, &limits, gpu.device.adapter_info().device_type)? {
        let text = serde_json::to_string(&tuning)?;
        if serde_json::from_str::<Tuning>(&text)? != tuning {
            return Err(format!("{text} is not what was written").into());
        }
    }
    Ok(())
}

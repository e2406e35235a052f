//! Every way to compute gives the same result, and the fastest of them is found.

use libtest_mimic::Failed;
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Layout, Tuning, subgroup_lanes, tune_with};
use linear_attention::update_rule::{Beta, Decay, DecayActivation};
use linear_attention::verify::{self, Options};
use linear_attention::{Config, Dtype, Inputs, LinearAttention, Shape, UpdateRule, wgpu};

use super::Test;
use super::properties::{close, numbers};
use crate::adapters::Gpu;
use crate::cases::every_other;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("tune::every_candidate_of_odd_widths", candidates_of_odd_widths),
    ("tune::every_candidate_of_wide_values", candidates_of_wide_values),
    ("tune::rules_in_workgroups", rules_in_workgroups),
    ("tune::finds_the_fastest", finds_the_fastest),
    ("tune::states_in_a_pool", states_in_a_pool),
    ("tune::gates", gates),
    ("tune::is_serialisable", is_serialisable),
    ("tune::subgroups_that_were_not_granted", subgroups_that_were_not_granted),
    ("tune::equal_bits_in_any_company", equal_bits_in_any_company),
];

/// A device without the feature has no lanes to share sums with, and refuses a layout that wants
/// some.
fn subgroups_that_were_not_granted(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: gpu.adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, _) = pollster::block_on(gpu.adapter.request_device(&descriptor))?;
    assert_eq!(subgroup_lanes(&device), 1);
    let config = Config::new(64, 64);
    let device_type = device.adapter_info().device_type;
    let layout = Layout::workgroup(16, 4, 16, 8).with_subgroup_sums(true);
    let tuning = Tuning::new(&config, &device.limits(), device_type)?.with_layout(layout);
    let options = linear_attention::Options::default().with_tuning(tuning);
    let made = LinearAttention::with_options(&device, config.clone(), &options);
    let error = made.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("subgroup_sums") && error.contains("subgroups of 4 lanes"), "{error}");
    // With it, as many lanes as the smallest subgroup has.
    let lanes = subgroup_lanes(&gpu.device);
    let made = LinearAttention::with_options(&gpu.device, config, &options);
    assert_eq!(made.is_ok(), lanes >= 4, "{lanes}");
    Ok(())
}

/// Unequal and odd.
fn candidates_of_odd_widths(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    every_candidate_is_right(gpu, "k17-v33")
}

/// Widths that let tiles be narrower than V.
fn candidates_of_wide_values(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    every_candidate_is_right(gpu, "k32-v128")
}

/// The update rules with their rows in workgroup memory, one lane and several to a row, whatever
/// the device would choose.
fn rules_in_workgroups(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let device_type = gpu.device.adapter_info().device_type;
    let limits = gpu.device.limits();
    let names = ["gated-rows-odd", "gated-sum", "gated-delta-strong", "gated-delta-segments"];
    let today: Vec<_> = every_other("tune::rules_in_workgroups", names).collect();
    for case in verify::cases().into_iter().filter(|case| today.contains(&case.name)) {
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
    let measured =
        tune_with(&gpu.device, &gpu.queue, a.config(), &shape, None, &mut |_| calls += 1)?;
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

/// So are decays, betas and the weights of their activation.
fn gates(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let decay = Decay::per_head().with_activation(DecayActivation::Softplus).with_dtype(Dtype::F16);
    let config = Config::of_rule(8, 8, UpdateRule::GatedDelta(decay, Beta::per_head()));
    let config = config.with_dtype(Dtype::F16);
    let shape = Shape::new(1, 5, 3);
    let measured = tune_with(&gpu.device, &gpu.queue, &config, &shape, None, &mut |_| {})?;
    if measured.is_empty() { Err("nothing was measured".into()) } else { Ok(()) }
}

/// The entries of a buffer are there when a candidate is measured.
fn states_in_a_pool(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let bounds = PackedLimits { sequences: 3, tokens: 90, max_len: 40 };
    let shapes = [
        Shape::new(3, 1, 2).with_slots(4),
        Shape::packed(&[30, 0, 60], 2).with_slots(2),
        Shape::packed_up_to(bounds, 2).with_slots(4),
        Shape::packed_up_to(bounds, 2),
    ];
    for shape in every_other("tune::states_in_a_pool", shapes) {
        let measured = tune_with(&gpu.device, &gpu.queue, a.config(), &shape, None, &mut |_| {})?;
        if measured.is_empty() {
            return Err(format!("nothing was measured of {shape:?}").into());
        }
    }
    Ok(())
}

/// With segments of a length of their own, a sequence gets the same bits alone, in a pack and in a
/// batch, with any occupancy; every rule, both sources of rows.
fn equal_bits_in_any_company(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let linear = UpdateRule::Linear;
    let gated = UpdateRule::Gated(Decay::per_row());
    let delta = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let limits = gpu.device.limits();
    let (direct, workgroup) = (wgpu::DeviceType::Cpu, wgpu::DeviceType::Other);
    let kinds = [
        (linear, direct),
        (linear, workgroup),
        (gated, workgroup),
        (gated, direct),
        (delta, direct),
        (delta, workgroup),
    ];
    for (rule, device_type) in every_other("tune::equal_bits_in_any_company", kinds) {
        let config = Config::of_rule(16, 16, rule);
        // Left to the plan, so short segments would be as many as workgroups.
        let tuning = Tuning::new(&config, &limits, device_type)?.with_min_segment_len(8);
        let tuning = tuning.with_segment_len(24);
        let run = |shape: &Shape, workgroups: u32, rows: &[usize]| {
            let tuning = tuning.with_workgroups(workgroups);
            let options = linear_attention::Options::default().with_tuning(tuning);
            let a = LinearAttention::with_options(&gpu.device, config.clone(), &options)?;
            let of = |width: usize, salt: u32, by: f32| -> Vec<f32> {
                let row = |row: &usize| numbers(width, salt + 7 * *row as u32);
                rows.iter().flat_map(row).map(|x| by * x).collect()
            };
            let [q, k, v] = [of(32, 1, 1.0), of(32, 2, 0.2), of(32, 3, 1.0)];
            let per_token = shape.lens(&config)?.decay as usize / rows.len();
            let decays = of(per_token, 4, 0.1);
            let decays: Vec<f32> = decays.iter().map(|x| -x.abs()).collect();
            let betas: Vec<f32> = of(2, 5, 0.5).iter().map(|x| x.abs()).collect();
            let mut inputs = Inputs::new(&q, &k, &v);
            inputs.decay = rule.decay().map(|_| &decays[..]);
            inputs.beta = rule.beta().map(|_| &betas[..]);
            a.run(&gpu.queue, shape, inputs).map_err(Failed::from)
        };
        // 61 tokens, which are rows 0 to 60 wherever they are.
        let own: Vec<usize> = (0..61).collect();
        let others: Vec<usize> = (100..400).collect();
        let alone = run(&Shape::new(1, 61, 2), 4, &own)?;
        let pack = [&others[..200], &own, &others[..7], &others[..93]].concat();
        let packed = run(&Shape::packed(&[200, 61, 7, 93], 2), 512, &pack)?;
        let batch = [&others[..61], &own].concat();
        let batched = run(&Shape::new(2, 61, 2), 1, &batch)?;
        let state = alone.mu.len();
        for (what, found, first_row, n) in [("pack", &packed, 200, 1), ("batch", &batched, 61, 1)] {
            let o = &found.o[first_row * 32..(first_row + 61) * 32];
            if o != alone.o || found.mu[n * state..(n + 1) * state] != alone.mu[..] {
                return Err(format!("{rule:?} {device_type:?}: other bits in a {what}").into());
            }
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

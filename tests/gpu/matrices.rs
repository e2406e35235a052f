//! Matrix units against f64, on devices that have them: the newest lavapipe does, of 8x8x8.

use libtest_mimic::Failed;
use linear_attention::error::{ConfigError, MatrixUnitsError};
use linear_attention::serve::{Batch, Checkpoint, Entry, Sequences, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::{Candidate, MatrixUnits, RowSource, tune_with};
use linear_attention::update_rule::{Beta, Decay, DecayDims};
use linear_attention::verify::{self, Case, Harness, Mutation, Options};
use linear_attention::{
    Config, Dtype, FeatureMap, Inputs, LinearAttention, Normalization, Readback, Shape, Tensors,
    UpdateRule, reference, wgpu,
};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;
use crate::runner::skip;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("matrices::agree_with_f64", agree_with_f64),
    ("matrices::factors_beyond_f16", factors_beyond_f16),
    ("matrices::states_on_the_way", states_on_the_way),
    ("matrices::mistakes_are_caught", mistakes_are_caught),
    ("matrices::tuned", tuned),
    ("matrices::refusals", refusals),
    ("matrices::other_widths_are_loud", other_widths_are_loud),
];

/// Those of the full matrix alone.
pub(crate) const FULL: &[(&str, Test)] = &[("matrices::every_case", every_case)];

/// A device with what matrix units need, `None` where the adapter has not got it.
fn device(gpu: &Gpu) -> Result<Option<(wgpu::Device, wgpu::Queue)>, Failed> {
    let required = MatrixUnits::required_features();
    if !gpu.adapter.features().contains(required) {
        skip(format!("{} has no matrix units", gpu.name))?;
        return Ok(None);
    }
    let made = pollster::block_on(gpu.adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("linear_attention.tests.matrices"),
        required_features: required,
        required_limits: gpu.adapter.limits(),
        // SAFETY: what an experimental feature may do wrong a test may find out.
        experimental_features: unsafe { wgpu::ExperimentalFeatures::enabled() },
        ..Default::default()
    }))?;
    Ok(Some(made))
}

fn f16(config: Config) -> Config {
    config.with_dtype(Dtype::F16)
}

fn gated(width: u32) -> Config {
    f16(Config::of_rule(width, width, UpdateRule::Gated(Decay::per_head())))
}

fn gated_delta(decay: Decay) -> Config {
    f16(Config::of_rule(16, 16, UpdateRule::GatedDelta(decay, Beta::per_head())))
}

/// The cases that matrix units compute, once their rows are in f16 where they are in f32.
fn cases() -> Vec<Case> {
    let of = |mut case: Case| {
        if case.config.dtype == Dtype::F32 {
            case.config.dtype = Dtype::F16;
        }
        let config = &case.config;
        let is_one = match config.update_rule {
            UpdateRule::Gated(decay) | UpdateRule::GatedDelta(decay, _) => {
                decay.dims != DecayDims::PerRow
            }
            _ => true,
        };
        let maps = [Some(&config.feature_map), config.query_feature_map.as_ref()];
        let is_element_wise = maps.into_iter().flatten().all(FeatureMap::is_element_wise);
        let is_it = is_one && is_element_wise && !case.is_backward && config.features() <= 256;
        is_it.then_some(case)
    };
    verify::cases().into_iter().filter_map(of).collect()
}

/// The harness's cases, with one subgroup or with several.
fn check(gpu: &Gpu, is_it: impl Fn(&Case) -> bool) -> Result<(), Failed> {
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let units = MatrixUnits::new(&gpu.adapter, &device, &queue, &gated(32))?;
    let mut count = 0;
    for (i, case) in cases().into_iter().filter(&is_it).enumerate() {
        let mut tuning = *units.tuning();
        // In turns.
        let subgroups = if i % 2 == 0 { 1 } else { 4 };
        tuning.layout.column_threads = subgroups;
        if tuning.check(&case.config, &device.limits()).is_err() {
            continue;
        }
        count += 1;
        let options = Options::default().with_tuning(tuning);
        let rows = Harness::new(&device, &queue, &options).check(&case);
        if let Some(row) = rows.iter().find(|row| !row.passed) {
            let name = case.name;
            return Err(format!("{name} is wrong with {subgroups} subgroups: {row:?}").into());
        }
    }
    if count == 0 { Err("no case was run".into()) } else { Ok(()) }
}

fn agree_with_f64(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    const NAMES: [&str; 13] = [
        "bf16",
        "delta-segments",
        "f16-gated-delta",
        "gated",
        "gated-constant",
        "gated-forgets",
        "gated-packed",
        "gated-sum",
        "f16-odd",
        "gated-delta-norm",
        "l2-elu",
        "strides-f16-offsets",
        "exp",
    ];
    check(gpu, |case| NAMES.contains(&case.name))
}

fn every_case(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    if let Some((device, queue)) = device(gpu)? {
        let config = gated_delta(Decay::per_head());
        MatrixUnits::new(&gpu.adapter, &device, &queue, &config)?;
    }
    // A CPU adapter computes a matrix in a second's thousandths, and compiles wide states in
    // minutes.
    let is_small = |case: &Case| {
        let config = &case.config;
        case.shape.batch * case.shape.seq_len <= 300 && config.key_dim.max(config.value_dim) <= 64
    };
    check(gpu, is_small)
}

/// Features and states that f16 ends below, or has no digits for, are scaled; so are rows of a
/// chunk that lie far apart.
fn factors_beyond_f16(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let (t, d) = (70usize, 16usize);
    let maps = [FeatureMap::Elu, FeatureMap::Exp, FeatureMap::ReluSquared];
    for (dtype, map, shift, by, largest_value) in [
        (Dtype::F16, &maps[0], -20.0f32, 1.0f32, 20_000.0f32),
        (Dtype::F16, &maps[0], 40_000.0, 0.0, 20_000.0),
        (Dtype::F16, &maps[1], 30.0, 3.0, 20_000.0),
        (Dtype::F16, &maps[1], -40.0, 3.0, 20_000.0),
        (Dtype::F16, &maps[2], 3000.0, 900.0, 20_000.0),
        (Dtype::F16, &maps[2], 2e-5, 1e-6, 20_000.0),
        (Dtype::Bf16, &maps[0], 1e6, 0.0, 1e26),
    ] {
        let config = Config::new(d as u32, d as u32).with_feature_map(map.clone());
        let config = config.with_dtype(dtype);
        let units = MatrixUnits::new(&gpu.adapter, &device, &queue, &config)?;
        let options = linear_attention::Options::default().with_matrix_units(&units);
        let a = LinearAttention::with_options(&device, config.clone(), &options)?;
        let shape = Shape::new(1, t as u32, 1);
        if !a.plan(&shape)?.is_of_matrices() {
            return Err("matrix units were not used".into());
        }
        // Every other token is far above the one before.
        let half = |x: f32| dtype.round(x);
        let row = |(i, x): (usize, &f32)| {
            let apart = if i / d % 2 == 1 { 0.25 * shift.abs().min(16.0) } else { 0.0 };
            half(shift + by * x + apart)
        };
        let [q, k, v] = [1, 2, 3].map(|salt| numbers(t * d, salt));
        let q: Vec<f32> = q.iter().enumerate().map(row).collect();
        let k: Vec<f32> = k.iter().enumerate().map(row).collect();
        // Chunks without any value, too, whose scale is the largest there is.
        let value = |(i, x): (usize, &f32)| if i < 20 * d { 0.0 } else { half(largest_value * x) };
        let v: Vec<f32> = v.iter().enumerate().map(value).collect();
        let inputs = Inputs::new(&q, &k, &v);
        let found = a.run(&queue, &shape, inputs)?;
        let truth = reference::recurrent(&config, &shape, inputs)?;
        // Averages of values: each feature, score and value has half an ulp of f16, and o one of
        // its own.
        let bound = if dtype == Dtype::F16 { 4e-3 } else { 5.5e-3 };
        let largest = truth.o.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        for (found, truth) in found.o.iter().zip(&truth.o) {
            let error = (f64::from(*found) - truth).abs();
            if error.is_nan() || error > bound * largest {
                return Err(format!("{map} of {shift}: {found} for {truth}").into());
            }
        }
        let largest = truth.mu.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        for (found, truth) in found.mu.iter().zip(&truth.mu) {
            let error = (f64::from(*found) - truth).abs();
            if error.is_nan() || error > 2e-3 * largest {
                return Err(format!("{map} of {shift}: state {found} for {truth}").into());
            }
        }
    }
    Ok(())
}

/// States are stored in the middle of a chunk, and rows of no sequence are zero.
fn states_on_the_way(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let (t, room, d) = (37usize, 50usize, 16usize);
    let config =
        gated(16).with_feature_map(FeatureMap::Elu).with_normalization(Normalization::default());
    let units = MatrixUnits::new(&gpu.adapter, &device, &queue, &config)?;
    let options = linear_attention::Options::default().with_matrix_units(&units);
    let a = LinearAttention::with_options(&device, config.clone(), &options)?;
    let limits = PackedLimits { sequences: 1, tokens: room as u32, max_len: 40 };
    let shape = Shape::packed_up_to(limits, 1).with_slots(4).with_checkpoints(2);
    let plan = a.plan(&shape)?;
    if !plan.is_of_matrices() {
        return Err("matrix units were not used".into());
    }
    let half = |x: f32| Dtype::F16.round(x);
    let [q, k, v] = [1, 2, 3]
        .map(|salt| -> Vec<f32> { numbers(room * d, salt).into_iter().map(half).collect() });
    let decay: Vec<f32> = numbers(room, 4).iter().map(|x| -0.2 * x.abs()).collect();
    let buffer = |bytes: &[u8]| {
        let usage = wgpu::BufferUsages::STORAGE;
        let usage = usage | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: bytes.len() as u64,
            usage,
            mapped_at_creation: false,
        });
        queue.write_buffer(&buffer, 0, bytes);
        buffer
    };
    let [of_q, of_k, of_v] = [&q, &k, &v].map(|x| buffer(&Dtype::F16.encode(x)));
    let of_decay = buffer(&Dtype::F32.encode(&decay));
    let o = buffer(&vec![0xFF; 2 * room * d]);
    let scratch = buffer(&vec![0xFF; (plan.scratch_size() as usize).max(4)]);

    let pool = StatePool::new(&device, &config, 1, 4)?;
    let mut encoder = device.create_command_encoder(&Default::default());
    let slots = (0..4).map(|_| pool.allocate(&mut encoder)).collect::<Result<Vec<_>, _>>()?;
    queue.submit([encoder.finish()]);
    let batch = Batch::new(&plan, &pool)?;
    let at = |tokens, slot: usize| Checkpoint { sequence: 0, tokens, slot: slots[slot] };
    let entries = [Entry::new(slots[0], t as u32)];
    batch.write_with_checkpoints(&queue, &pool, &entries, &[at(5, 1), at(21, 2)])?;
    let tensors = Tensors::new(&of_q, &of_k, &of_v, &o)
        .with_pool(pool.binding())
        .with_sequences(Sequences::Host(&batch))
        .with_decay(of_decay.as_entire_buffer_binding());
    let bound = a.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
    let mut encoder = device.create_command_encoder(&Default::default());
    a.record(&mut encoder, &bound);
    let readback = Readback::record(&device, &mut encoder, &[&o, pool.binding().buffer])?;
    queue.submit([encoder.finish()]);
    let [found, states] = &readback.wait::<u8>()?[..] else { return Err("two buffers".into()) };
    let found = Dtype::F16.decode(found, room * d);
    let states = Dtype::F32.decode(states, states.len() / 4);
    let state_len = plan.state_size() as usize / 4;

    let near = |what: &str, truth: &[f64], found: &[f32]| -> Result<(), Failed> {
        let largest = truth.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        for (truth, found) in truth.iter().zip(found) {
            let error = (f64::from(*found) - truth).abs();
            if error.is_nan() || error > 3e-3 * largest {
                return Err(format!("{what}: {found} for {truth}").into());
            }
        }
        if truth.len() == found.len() { Ok(()) } else { Err(format!("{what}: too few").into()) }
    };
    for (slot, len) in slots.iter().zip([t, 5, 21, 0]) {
        let shape = Shape::new(1, len as u32, 1);
        let mut inputs = Inputs::new(&q[..len * d], &k[..len * d], &v[..len * d]);
        inputs.decay = Some(&decay[..len]);
        let truth = reference::recurrent(&config, &shape, inputs)?;
        let state = &states[slot.index() as usize * state_len..][..state_len];
        let what = format!("state after {len} tokens");
        near(&what, &[truth.mu, truth.nu].concat(), state)?;
        if len == t {
            near("o", &truth.o, &found[..t * d])?;
        }
    }
    if found[t * d..].iter().any(|x| *x != 0.0) {
        return Err("rows of no sequence are zero".into());
    }
    Ok(())
}

/// Mistakes in the shaders show in the result of a case.
fn mistakes_are_caught(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let units = MatrixUnits::new(&gpu.adapter, &device, &queue, &gated(16))?;
    for mutation in Mutation::OF_MATRICES {
        let name = match mutation {
            Mutation::MatrixSolveOffByOne | Mutation::MatrixRecallUndecayed => {
                "gated-delta-segments"
            }
            _ => "gated-packed",
        };
        let case = cases().into_iter().find(|case| case.name == name);
        let case = case.ok_or("the harness has lost its case")?;
        let options = Options::default().with_tuning(*units.tuning()).with_mutation(mutation);
        let rows = Harness::new(&device, &queue, &options).check(&case);
        let compared = rows.iter().all(|row| row.message.is_empty());
        if rows.is_empty() || !compared || rows.iter().all(|row| row.passed) {
            return Err(format!("{mutation:?} was not caught: {rows:?}").into());
        }
    }
    Ok(())
}

/// All outputs are NaN where subgroups have another width than the shaders are made for.
fn other_widths_are_loud(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let mut tuning = *MatrixUnits::new(&gpu.adapter, &device, &queue, &gated(16))?.tuning();
    let RowSource::Matrices { subgroup_size } = tuning.layout.row_source else {
        return Err("another source of rows".into());
    };
    tuning.layout.row_source = RowSource::Matrices { subgroup_size: 2 * subgroup_size };
    let case = cases().into_iter().find(|case| case.name == "gated");
    let case = case.ok_or("the harness has lost its case")?;
    let options = Options::default().with_tuning(tuning);
    let rows = Harness::new(&device, &queue, &options).check(&case);
    // state_scan has no matrices, and gets its states from the harness.
    let mut rows = rows.iter().filter(|row| row.stage != "state_scan" && row.bound > 0.0);
    match rows.find(|row| row.error.is_finite() || !row.message.is_empty()) {
        None => Ok(()),
        Some(row) => Err(format!("{row:?} is not NaN").into()),
    }
}

/// The units that were checked are a candidate of `tune`, the last.
fn tuned(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let config = gated(16);
    let units = MatrixUnits::new(&gpu.adapter, &device, &queue, &config)?;
    let shape = Shape::new(1, 40, 2);
    let measured = tune_with(&device, &queue, &config, &shape, Some(&units), &mut |_| {})?;
    let of_matrices = |candidate: &Candidate| candidate.tuning.layout == units.tuning().layout;
    match measured.split_last() {
        Some((last, others)) if of_matrices(last) && !others.iter().any(of_matrices) => Ok(()),
        _ => Err(format!("{measured:?}").into()),
    }
}

/// Nothing runs on matrix units that nobody asked for, or that nobody has checked.
fn refusals(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // A device without the features.
    match MatrixUnits::new(&gpu.adapter, &gpu.device, &gpu.queue, &gated(16)) {
        Err(MatrixUnitsError::Features { .. }) => {}
        other => return Err(format!("without features: {other:?}").into()),
    }
    let is_of_matrices =
        |a: &LinearAttention| matches!(a.tuning().layout.row_source, RowSource::Matrices { .. });
    if is_of_matrices(a) {
        return Err("matrix units were chosen by default".into());
    }
    let Some((device, queue)) = device(gpu)? else { return Ok(()) };
    let new = |config: &Config| MatrixUnits::new(&gpu.adapter, &device, &queue, config);
    let rows = f16(Config::of_rule(16, 16, UpdateRule::Gated(Decay::per_row())));
    for (config, field) in [
        (gated(16).with_dtype(Dtype::F32), "dtype"),
        (rows, "update_rule"),
        (f16(Config::new(16, 16).with_feature_map(FeatureMap::Softmax)), "feature_map"),
        (gated_delta(Decay::per_row()), "update_rule"),
    ] {
        match new(&config) {
            Err(MatrixUnitsError::Config(ConfigError::Tuning { what, .. })) if what == field => {}
            other => return Err(format!("{field}: {other:?}").into()),
        }
    }
    let units = new(&gated(16))?;
    let options = linear_attention::Options::default();
    let made = |device: &wgpu::Device, config: Config, options: &linear_attention::Options<'_>| {
        LinearAttention::with_options(device, config, options)
    };
    let other = gated(16).with_normalization(Normalization::None).with_scale(2.0);
    for (what, found) in [
        ("unchecked", made(&device, gated(16), &options.clone().with_tuning(*units.tuning()))),
        ("another config", made(&device, other, &options.clone().with_matrix_units(&units))),
        (
            "another device",
            made(&gpu.device, gated(16), &options.clone().with_matrix_units(&units)),
        ),
    ] {
        match found {
            Err(ConfigError::Tuning { what: "matrix_units", .. }) => {}
            other => return Err(format!("{what}: {other:?}").into()),
        }
    }
    let a = made(&device, gated(16), &options.with_matrix_units(&units))?;
    if !is_of_matrices(&a) || a.plan(&Shape::new(1, 4, 1))?.is_of_matrices() {
        return Err("prompts alone run on matrix units".into());
    }
    Ok(())
}

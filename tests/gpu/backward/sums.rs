//! The rule linear by passes of the forward kernels; decays.rs has the rule gated.

use std::ops::Range;

use libtest_mimic::Failed;
use linear_attention::gradients::{Backward, BackwardTensors, GradientStage, Gradients, Recipe};
use linear_attention::shape::TensorStrides;
use linear_attention::tuning::Tuning;
use linear_attention::{
    Config, FeatureMap, LinearAttention, Normalization, Options, Packing, Readback, Shape,
    UpdateRule, reference, state,
};

use super::{BOUND, Sample, check_sample, differences};
use crate::adapters::Gpu;
use crate::binding::tensor;

/// Options for segments of so many tokens.
pub(super) fn in_segments(
    gpu: &Gpu,
    config: &Config,
    tokens: Option<u32>,
) -> Result<Options<'static>, Failed> {
    let device_type = gpu.adapter.get_info().device_type;
    let tuning = Tuning::new(config, &gpu.device.limits(), device_type)?;
    Ok(Options::default().with_tuning(tuning.with_segment_len(tokens)))
}

/// With a tail of tokens that belong to no sequence.
fn with_tail(shape: Shape, tokens: u32) -> Shape {
    let mut shape = shape;
    shape.seq_len += tokens;
    shape
}

/// Sequences that are equal, packed, with a tail, and padded.
pub(super) fn shapes() -> [Shape; 5] {
    [
        Shape::new(2, 13, 4).with_kv_heads(2),
        Shape::new(2, 1, 2),
        Shape::packed(&[0, 21, 0, 3, 0], 1).with_value_heads(2),
        with_tail(Shape::packed(&[9, 0, 12], 4).with_kv_heads(2), 6),
        Shape::padded(&[3..20, 0..0, 0..9, 20..20], 20, 2),
    ]
}

/// Puts NaN where no sequence has a token.
pub(super) fn spoil(config: &Config, shape: &Shape, sample: &mut Sample) -> Result<(), Failed> {
    let ranges = shape.token_ranges().ok_or("no ranges")?;
    let has = |t: usize| ranges.iter().any(|range: &Range<usize>| range.contains(&t));
    let tokens = shape.batch as usize * shape.seq_len as usize;
    let (k, v) = (config.key_dim, config.value_dim);
    let decays = if config.update_rule.needs_gate_weights() || sample.decay.len() < tokens {
        0
    } else {
        shape.value_heads
    };
    let betas = match config.update_rule.beta() {
        Some(_) if sample.beta.len() > tokens => shape.value_heads,
        Some(_) => 1,
        None => 0,
    };
    for (tensor, width) in [
        (&mut sample.decay, decays),
        (&mut sample.beta, betas),
        (&mut sample.q, shape.heads * k),
        (&mut sample.k, shape.key_heads * k),
        (&mut sample.v, shape.value_heads * v),
        (&mut sample.of_o, shape.output_heads() * v),
    ] {
        for (t, row) in tensor.chunks_mut(width.max(1) as usize).enumerate().take(tokens) {
            if !has(t) && width > 0 {
                row.fill(f32::NAN);
            }
        }
    }
    Ok(())
}

/// Gradients in scratch that another call has left full of NaN.
pub(super) fn run_in_dirty_scratch(
    gpu: &Gpu,
    backward: &Backward,
    shape: &Shape,
    sample: &Sample,
) -> Result<Gradients<f32>, Failed> {
    let plan = backward.plan(shape)?;
    let lens = plan.lens();
    let dirty = |len: u64| tensor(gpu, &vec![f32::NAN; len.max(1) as usize]);
    let inputs = [&sample.q, &sample.k, &sample.v].map(|data| tensor(gpu, data));
    let weights = [&sample.a_log[..], &sample.dt_bias].concat();
    let gates = [&sample.decay, &sample.beta, &weights].map(|data| tensor(gpu, data));
    let of_gates = [lens.decay, lens.beta, lens.gate_weights].map(dirty);
    let outputs = [lens.q, lens.k, lens.v].map(dirty);
    let n = shape.sequences() as usize;
    let initial = tensor(gpu, &state::join(n, &sample.mu, &sample.nu));
    let of_final = tensor(gpu, &state::join(n, &sample.of_mu, &sample.of_nu));
    let (of_o, of_initial) = (tensor(gpu, &sample.of_o), dirty(lens.state));
    let scratch = dirty(plan.scratch_size() / 4);
    let [[q, k, v], [of_q, of_k, of_v]] = [&inputs, &outputs].map(|all| all.each_ref());
    let mut tensors = BackwardTensors::new([q, k, v], &of_o, [of_q, of_k, of_v])
        .with_initial_state(
            initial.as_entire_buffer_binding(),
            of_initial.as_entire_buffer_binding(),
        )
        .with_final_state(of_final.as_entire_buffer_binding());
    let [[decay, beta, weights], [of_decay, of_beta, of_weights]] =
        [&gates, &of_gates].map(|all| all.each_ref().map(wgpu::Buffer::as_entire_buffer_binding));
    if lens.decay > 0 {
        tensors = tensors.with_decay(decay, of_decay);
    }
    if lens.beta > 0 {
        tensors = tensors.with_beta(beta, of_beta);
    }
    if lens.gate_weights > 0 {
        tensors = tensors.with_gate_weights(weights, of_weights);
    }
    let bound = backward.bind(&plan, &tensors, scratch.as_entire_buffer_binding())?;
    let mut encoder = gpu.device.create_command_encoder(&Default::default());
    backward.record(&mut encoder, &bound);
    let [of_decay, of_beta, of_weights] = &of_gates;
    let all = [of_q, of_k, of_v, &of_initial, of_decay, of_beta, of_weights];
    let readback = Readback::record(&gpu.device, &mut encoder, &all)?;
    gpu.queue.submit([encoder.finish()]);
    let found: [Vec<f32>; 7] = readback.wait()?.try_into().map_err(|_| "seven tensors")?;
    let [q, k, v, states, mut decay, mut beta, mut a_log] = found;
    decay.truncate(lens.decay as usize);
    beta.truncate(lens.beta as usize);
    a_log.truncate(lens.gate_weights as usize);
    let dt_bias = a_log.split_off(sample.a_log.len());
    let (mu, nu) = state::split(n, lens.mu as usize, &states);
    let mut found = Gradients::default();
    (found.q, found.k, found.v, found.mu, found.nu) = (q, k, v, mu, nu);
    (found.decay, found.beta) = (decay, beta);
    (found.a_log, found.dt_bias) = (a_log, dt_bias);
    Ok(found)
}

/// The largest difference from the reference's gradients.
pub(super) fn farthest(
    backward: &Backward,
    shape: &Shape,
    sample: &Sample,
    found: &Gradients<f32>,
) -> Result<f64, Failed> {
    let config = backward.config();
    let expected = reference::backward(config, shape, sample.inputs(config), sample.gradients())?;
    let far = differences(found, &expected)?;
    Ok(far.into_iter().fold(0.0, |most, (_, far)| f64::max(most, far)))
}

/// In one segment and in several, with NaN in all memory that no sequence has and in scratch:
/// tokens of no sequence have no gradients.
pub(super) fn segments(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let eps = Normalization::Sum { eps: 0.1 };
    for config in [
        Config::new(9, 7).with_normalization(eps).with_scale(0.5),
        Config::new(8, 12).with_normalization(Normalization::None),
    ] {
        for tokens in [Some(5), None] {
            check_in_dirty_memory(gpu, &config, tokens)?;
        }
    }
    Ok(())
}

/// In segments of so many tokens, with NaN in all memory that no sequence has and in scratch; in
/// sixteen bits without.
pub(super) fn check_in_dirty_memory(
    gpu: &Gpu,
    config: &Config,
    tokens: Option<u32>,
) -> Result<(), Failed> {
    let options = in_segments(gpu, config, tokens)?;
    let backward = Backward::with_options(&gpu.device, config.clone(), &options)?;
    for shape in shapes() {
        let sample = Sample::new(config, &shape)?;
        if config.dtype != linear_attention::Dtype::F32 {
            check_sample(gpu, &backward, &shape, &sample)?;
            continue;
        }
        let mut spoilt = Sample::new(config, &shape)?;
        spoil(config, &shape, &mut spoilt)?;
        let found = run_in_dirty_scratch(gpu, &backward, &shape, &spoilt)?;
        let far = farthest(&backward, &shape, &sample, &found)?;
        if far > BOUND {
            return Err(format!("{config:?}, {shape:?}, {tokens:?}: {far:e} off").into());
        }
    }
    Ok(())
}

/// The same through maps with a row scale, sixteen bits, views of a fused row, and wide rows.
pub(super) fn configs(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use linear_attention::Dtype::{Bf16, F16};
    let eps = Normalization::Sum { eps: 0.1 };
    let of = |k, v, map| Config::new(k, v).with_feature_map(map);
    for config in [
        of(8, 8, FeatureMap::Softmax).with_normalization(eps).with_dtype(F16),
        of(7, 5, FeatureMap::Exp).with_normalization(Normalization::None).with_dtype(Bf16),
        of(12, 8, FeatureMap::Elu).with_l2_norm(true),
        // Feature blocks of the passes.
        Config::new(40, 300),
        Config::new(300, 20).with_normalization(Normalization::None),
    ] {
        let options = in_segments(gpu, &config, Some(6))?;
        let backward = Backward::with_options(&gpu.device, config.clone(), &options)?;
        for shape in shapes() {
            check_sample(gpu, &backward, &shape, &Sample::new(&config, &shape)?)?;
            if !matches!(shape.packing, Packing::Padded(_)) {
                let strides = TensorStrides::fused(&config, &shape);
                let shape = shape.with_strides(strides);
                check_sample(gpu, &backward, &shape, &Sample::new(&config, &shape)?)?;
            }
        }
    }
    Ok(())
}

/// The recurrence, where sums would compute the call.
pub(super) fn recurrence(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let is_delta = |config: &Config| matches!(config.update_rule, UpdateRule::Delta(_));
    let is_linear = |config: &Config| config.update_rule == UpdateRule::Linear;
    for config in super::configs(9, 7).into_iter().filter(|of| is_linear(of) || is_delta(of)) {
        let (options, recipe) = (Options::default(), Recipe::Recurrence);
        let device = &gpu.device;
        let backward = Backward::with_mutation(device, config, &options, recipe, &|_, wgsl| wgsl)?;
        let sums = Backward::new(&gpu.device, backward.config().clone())?;
        for shape in shapes() {
            assert_ne!(backward.plan(&shape)?.scratch_size(), sums.plan(&shape)?.scratch_size());
            check_sample(gpu, &backward, &shape, &Sample::new(backward.config(), &shape)?)?;
        }
    }
    Ok(())
}

/// A mistake in the text of a stage.
pub(super) type Mistake<'a> = (&'a Config, &'a Shape, GradientStage, &'a str, &'a str);

/// True if an edit of the shaders, or a recipe, is further off than the bound.
fn is_caught(
    gpu: &Gpu,
    (config, shape): (&Config, &Shape),
    recipe: Recipe,
    edit: &dyn Fn(GradientStage, String) -> String,
) -> Result<bool, Failed> {
    let options = in_segments(gpu, config, Some(5))?;
    let backward = Backward::with_mutation(&gpu.device, config.clone(), &options, recipe, edit)?;
    let (sample, mut spoilt) = (Sample::new(config, shape)?, Sample::new(config, shape)?);
    spoil(config, shape, &mut spoilt)?;
    let found = run_in_dirty_scratch(gpu, &backward, shape, &spoilt)?;
    Ok(farthest(&backward, shape, &sample, &found)? > BOUND)
}

/// Refuses mistakes that are within the bound, or that the shaders do not have.
pub(super) fn check_mistakes(gpu: &Gpu, mistakes: &[Mistake<'_>]) -> Result<(), Failed> {
    for (config, shape, stage, from, to) in mistakes {
        let is_there = std::cell::Cell::new(false);
        let edit = |of: GradientStage, wgsl: String| {
            if of != *stage {
                return wgsl;
            }
            is_there.set(wgsl.contains(from));
            wgsl.replace(from, to)
        };
        let caught = is_caught(gpu, (config, shape), Recipe::Best, &edit)?;
        if !is_there.get() {
            return Err(format!("no {from} in {stage:?}").into());
        }
        if !caught {
            return Err(format!("{stage:?} without {from} is within the bound").into());
        }
    }
    Ok(())
}

/// Refuses passes in forward time that are within the bound.
pub(super) fn check_unreversed(gpu: &Gpu, call: (&Config, &Shape)) -> Result<(), Failed> {
    if is_caught(gpu, call, Recipe::Unreversed, &|_, wgsl| wgsl)? {
        return Ok(());
    }
    Err("passes in forward time are within the bound".into())
}

/// A mistake in a stage of the sums, or passes in forward time, are further off than the bound.
pub(super) fn mutations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use GradientStage::{GroupSums, OutputRows, PassInputs, PassOutputs};
    let sum = Config::new(6, 5).with_normalization(Normalization::Sum { eps: 0.1 }).with_scale(0.5);
    let softmax = sum.clone().with_feature_map(FeatureMap::Softmax);
    let plain = Config::new(8, 8).with_normalization(Normalization::None).with_scale(0.5);
    let [grouped, _, packed, tail, _] = shapes();
    let in_order = "return n * params.output_heads + h;";
    let reversed = "return (params.sequences - 1u - n) * params.output_heads + h;";
    let mistakes = [
        // States: left out, in the wrong order, not transposed, counted twice.
        (
            &sum,
            &packed,
            PassInputs,
            "return states[state + e * MU_LEN + f * VALUE_DIM + column]",
            "return 0.0",
        ),
        (
            &sum,
            &packed,
            PassInputs,
            "return states[state + params.value_heads * MU_LEN + e * FEATURE_DIM + f]",
            "return 0.0",
        ),
        (
            &sum,
            &packed,
            PassInputs,
            "x = state_element(states_len(), n, h / params.group, i % PASS_STATE_LEN);",
            "",
        ),
        (&sum, &packed, PassInputs, reversed, in_order),
        (&sum, &packed, PassOutputs, reversed, in_order),
        (
            &plain,
            &packed,
            PassInputs,
            "column * 4u * PASS_KEY_VEC4 + f",
            "f * 4u * PASS_VALUE_VEC4 + column",
        ),
        (&sum, &grouped, PassInputs, "h % params.group == 0u", "true"),
        // The column of the denominator, and rows that passes in reversed time do not have.
        (&sum, &grouped, PassInputs, "select(w, vec4<f32>(1.0),", "select(w, vec4<f32>(0.0),"),
        (&sum, &tail, PassInputs, "clear_row(i);", ""),
        // Factors of rows.
        (
            &sum,
            &grouped,
            OutputRows,
            "dy[VALUE_DIM % 4u] = -c * taken",
            "dy[VALUE_DIM % 4u] = -taken",
        ),
        (&sum, &grouped, OutputRows, "taken += dot", "taken -= dot"),
        (&plain, &grouped, OutputRows, "var dy = c * ", "var dy = "),
        (&sum, &grouped, OutputRows, "SCALE * weight + EPS * gain", "SCALE * weight"),
        (
            &softmax,
            &grouped,
            OutputRows,
            "(PASS_KEY_VEC4 + 1u) - 1u].x",
            "(PASS_KEY_VEC4 + 1u) - 2u].x",
        ),
        // Output heads that read a value head.
        (&sum, &grouped, GroupSums, "h < params.group", "h < 1u"),
        (&sum, &grouped, PassOutputs, "h < params.group", "h < 1u"),
        (&sum, &grouped, PassOutputs, "h < (e + 1u) * params.group", "h <= e * params.group"),
    ];
    check_mistakes(gpu, &mistakes)?;
    [&grouped, &packed].into_iter().try_for_each(|shape| check_unreversed(gpu, (&sum, shape)))
}

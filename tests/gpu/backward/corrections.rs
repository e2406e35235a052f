//! The delta rules, without decays and with those that are one for each token and head: token by
//! token for what they add to the state, and by passes of the forward kernels for the rest.

use libtest_mimic::Failed;
use linear_attention::gradients::{Backward, GradientStage};
use linear_attention::update_rule::{Beta, BetaActivation, Decay, DecayActivation};
use linear_attention::{Config, Dtype, FeatureMap, LinearAttention, Shape, UpdateRule};

use super::sums::{check_in_dirty_memory, check_mistakes, check_unreversed, in_segments, shapes};
use super::{Sample, check_sample, recipes};
use crate::adapters::Gpu;

fn delta(key_dim: u32, value_dim: u32) -> Config {
    Config::of_rule(key_dim, value_dim, UpdateRule::Delta(Beta::per_head()))
}

fn gated(key_dim: u32, value_dim: u32) -> Config {
    let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    Config::of_rule(key_dim, value_dim, rule)
}

/// With each form of decays and betas, maps, and sixteen bits.
fn configs() -> [Config; 5] {
    let softplus = Decay::per_head().with_activation(DecayActivation::Softplus);
    let sigmoid = Beta::shared().with_activation(BetaActivation::Sigmoid);
    let half = Decay::constant().with_dtype(Dtype::F16);
    let half = UpdateRule::GatedDelta(half, Beta::per_head().with_dtype(Dtype::F16));
    let of_elu = Config::of_rule(12, 8, UpdateRule::GatedDelta(softplus, sigmoid));
    [
        delta(9, 7).with_scale(0.5),
        gated(8, 12),
        of_elu.with_feature_map(FeatureMap::Elu).with_l2_norm(true),
        Config::of_rule(8, 8, half).with_dtype(Dtype::F16),
        Config::of_rule(5, 20, UpdateRule::Delta(sigmoid)).with_feature_map(FeatureMap::Softmax),
    ]
}

/// In one segment and in several, with NaN in all memory that no sequence has and in scratch:
/// tokens of no sequence have no gradients.
pub(super) fn segments(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for config in configs() {
        for tokens in [Some(5), None] {
            check_in_dirty_memory(gpu, &config, tokens)?;
        }
    }
    Ok(())
}

/// Sequences of several whole blocks of gradients by decays, whose lengths are multiples of them and
/// are not; with decays that forget nearly all and all, and with none.
pub(super) fn windows(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = gated(8, 8);
    let backward = Backward::new(&gpu.device, config.clone())?;
    for shape in [
        Shape::new(1, 256, 2).with_kv_heads(1),
        Shape::new(2, 261, 1),
        Shape::packed(&[129, 0, 127, 128, 300, 1], 1),
    ] {
        let mut sample = Sample::new(&config, &shape)?;
        check_sample(gpu, &backward, &shape, &sample)?;
        for (i, decay) in sample.decay.iter_mut().enumerate() {
            *decay = match i % 5 {
                0 => f32::NEG_INFINITY,
                1 => -200.0,
                2 => -90.0,
                3 => 0.0,
                _ => -3.0 + 15.0 * *decay,
            };
        }
        check_sample(gpu, &backward, &shape, &sample)?;
        sample.decay.fill(f32::NEG_INFINITY);
        check_sample(gpu, &backward, &shape, &sample)?;
    }
    Ok(())
}

/// Columns that several threads share, and states of several blocks of them, the last not whole.
pub(super) fn widths(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for config in [gated(3, 70), delta(72, 20), gated(132, 40), delta(256, 8)] {
        let options = in_segments(gpu, &config, Some(6))?;
        let backward = Backward::with_options(&gpu.device, config.clone(), &options)?;
        for shape in shapes() {
            check_sample(gpu, &backward, &shape, &Sample::new(&config, &shape)?)?;
        }
    }
    Ok(())
}

/// More tokens than a dispatch takes, where a driver limits what an invocation does, in the longest
/// of several sequences.
pub(super) fn many_tokens(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = gated(4, 4);
    let shape = Shape::padded(&[3..40_000, 0..0, 700..731], 40_000, 1);
    let backward = Backward::new(&gpu.device, config.clone())?;
    check_sample(gpu, &backward, &shape, &Sample::new(&config, &shape)?)
}

/// Gradients as far off as those of the recurrence, in parts of the largest: with keys of length 1
/// whose values are replaced, with betas up to 2, and with strong decays.
pub(super) fn recurrence(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for config in [delta(16, 16), gated(16, 12)].map(|config| config.with_l2_norm(true)) {
        let mut samples = Vec::new();
        for strongest in [0.0, -1e-3, -3.0, -8.0, -30.0] {
            for [least, most] in [[0.1, 0.9], [0.99, 1.0], [1.5, 2.0]] {
                let mut sample = Sample::new(&config, &recipes::shape())?;
                sample.decay.iter_mut().for_each(|decay| *decay += strongest);
                let scaled = |beta: f32| least + (most - least) * (beta - 0.1) / 0.8;
                sample.beta.iter_mut().for_each(|beta| *beta = scaled(*beta));
                samples.push((format!("{strongest}, {most}"), sample));
            }
        }
        recipes::check(gpu, &config, &samples)?;
    }
    Ok(())
}

/// A mistake in a stage of the delta rules, or passes in forward time, are further off than the
/// bound.
pub(super) fn mutations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use GradientStage::{
        CorrectionRows, Corrections, CorrectionsReversed, Decays, GroupSums, PassDecays,
        PassInputs, PassOutputs,
    };
    let (plain, narrow, wide) = (gated(8, 8), delta(6, 5), gated(72, 6));
    let [grouped, _, packed, tail, padded] = shapes();
    let mistakes = [
        // Forward: what a key recalls, decays, beta, the state before and between chunks.
        (&plain, &grouped, Corrections, "(kept + gate.x * kept)", "kept"),
        (&plain, &grouped, Corrections, "{ (*column)[0u] += decay * (*column)[0u]; }", "{}"),
        (&plain, &grouped, Corrections, "gate.y * e);", "e);"),
        (
            &plain,
            &grouped,
            Corrections,
            "params.value_heads + walk.head) * PASS",
            "params.value_heads) * PASS",
        ),
        (
            &narrow,
            &packed,
            Corrections,
            "r < count; r++) {\n            let gate",
            "r < 1u; r++) {\n            let gate",
        ),
        (
            &narrow,
            &packed,
            Corrections,
            "ranges[index / (COLUMN_BLOCKS * params.value_heads)]",
            "ranges[0]",
        ),
        // Columns that threads share.
        (&wide, &grouped, Corrections, "turn % 2u", "0u * turn"),
        (
            &wide,
            &grouped,
            Corrections,
            "0u * CORRECTION_LANES + walk.lane;",
            "0u * CORRECTION_LANES;",
        ),
        // Reversed: rows of output heads, keys, decays, the order of states.
        (
            &plain,
            &grouped,
            CorrectionsReversed,
            "h < params.group) {\n                add",
            "h < 1u) {\n                add",
        ),
        (&plain, &grouped, CorrectionsReversed, "gate.y * du);", "du);"),
        (
            &plain,
            &grouped,
            CorrectionsReversed,
            "{ (*column)[0u] += decay * (*column)[0u]; }",
            "{}",
        ),
        (&plain, &grouped, CorrectionsReversed, "if (t == range.x) { gate.x = 0.0; }", ""),
        (&plain, &grouped, CorrectionsReversed, "(*column)[0u] -= ", "(*column)[0u] += "),
        (
            &plain,
            &packed,
            CorrectionsReversed,
            "return (params.sequences - 1u - n) * params.output_heads + h;",
            "return n * params.output_heads + h;",
        ),
        (
            &plain,
            &grouped,
            CorrectionsReversed,
            "range.y - 1u - row / rows",
            "range.x + row / rows",
        ),
        (&plain, &grouped, CorrectionsReversed, "store_column(&column, walk, state);", ""),
        // Rows of the passes.
        (&plain, &grouped, CorrectionRows, "beta * e;", "e;"),
        (&plain, &grouped, CorrectionRows, "-beta * of_u", "-of_u"),
        (&plain, &grouped, CorrectionRows, "of_beta += dot", "of_beta = dot"),
        (
            &plain,
            &tail,
            CorrectionRows,
            "let is_there = has_sequence(row / params.value_heads);",
            "let is_there = true;",
        ),
        (
            &plain,
            &padded,
            PassDecays,
            "if (has_sequence(i / params.value_heads)) { beta",
            "if (true) { beta",
        ),
        (&plain, &grouped, PassDecays, "pass_decays[recalled_decays_begin() + at] = x;", ""),
        (&plain, &tail, PassInputs, "clear_keys(i);", ""),
        (&plain, &grouped, PassInputs, "pass_states[zeros_begin() + i] = 0.0;", ""),
        // Keys that recall: in gradients by decays, keys and values.
        (&plain, &grouped, Decays, "params.group + select(0u, 1u, HAS_BETA)", "params.group"),
        (
            &plain,
            &grouped,
            Decays,
            "return block.of_recalled + head * STATE_VEC4;",
            "return block.of_recalled;",
        ),
        (
            &plain,
            &grouped,
            Decays,
            "h < reading_heads(); h++) {\n        let r",
            "h < params.group; h++) {\n        let r",
        ),
        (
            &plain,
            &grouped,
            Decays,
            "h < reading_heads(); h++) {\n            multiply",
            "h < params.group; h++) {\n            multiply",
        ),
        (&narrow, &grouped, GroupSums, "of_pass_keys[of_recalled_keys_begin() + i] +", ""),
        (&narrow, &grouped, GroupSums, "+ of_pass_keys[of_recalling_keys_begin() + i]", ""),
        (&narrow, &grouped, GroupSums, "2.0 * beta", "beta"),
        (&narrow, &tail, GroupSums, "if (of_beta != 0.0)", "if (true)"),
        (&narrow, &grouped, PassOutputs, "pass_decays[betas_begin() + row] * ", ""),
    ];
    check_mistakes(gpu, &mistakes)?;
    [&grouped, &packed].into_iter().try_for_each(|shape| check_unreversed(gpu, (&plain, shape)))
}

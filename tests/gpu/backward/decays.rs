//! The rule gated, with decays that are one for each token and head, by passes of the forward
//! kernels.

use libtest_mimic::Failed;
use linear_attention::gradients::{Backward, GradientStage};
use linear_attention::update_rule::{Decay, DecayActivation};
use linear_attention::{Config, Dtype, LinearAttention, Normalization, Shape, UpdateRule};

use super::sums::{check_in_dirty_memory, check_mistakes, check_unreversed, in_segments, shapes};
use super::{Sample, check_sample, recipes};
use crate::adapters::Gpu;

fn with_decay(config: Config, decay: Decay) -> Config {
    config.with_update_rule(UpdateRule::Gated(decay))
}

/// Divided and not, with each form of decays.
fn configs() -> [Config; 4] {
    let eps = Normalization::Sum { eps: 0.1 };
    let softplus = Decay::per_head().with_activation(DecayActivation::Softplus);
    let sigmoid = DecayActivation::Sigmoid { lower_bound: -2.0 };
    let half = Decay::constant().with_activation(sigmoid).with_dtype(Dtype::F16);
    [
        with_decay(Config::new(9, 7), Decay::per_head()).with_normalization(eps).with_scale(0.5),
        Config::of_rule(8, 12, UpdateRule::Gated(softplus)),
        Config::of_rule(12, 8, UpdateRule::Gated(Decay::constant())),
        with_decay(Config::new(8, 8), half).with_normalization(eps).with_dtype(Dtype::F16),
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

/// Sequences of several whole blocks, whose lengths are multiples of them and are not; with decays
/// that forget nearly all and all, and with none.
pub(super) fn windows(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::of_rule(8, 8, UpdateRule::Gated(Decay::per_head()));
    let backward = Backward::new(&gpu.device, config.clone())?;
    for shape in [
        Shape::new(1, 256, 2).with_kv_heads(1),
        Shape::new(2, 261, 1),
        Shape::packed(&[129, 0, 127, 128, 300, 1], 1),
        // The longest blocks and windows that there are.
        Shape::packed(&[256, 255], 1),
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

/// One vec4 of features, and more than a workgroup has threads; wide rows of values.
pub(super) fn widths(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for [key_dim, value_dim] in [[3, 20], [40, 300], [300, 20]] {
        let config = with_decay(Config::new(key_dim, value_dim), Decay::per_head());
        for normalization in [Normalization::None, Normalization::Sum { eps: 0.1 }] {
            let config = config.clone().with_normalization(normalization);
            let options = in_segments(gpu, &config, Some(6))?;
            let backward = Backward::with_options(&gpu.device, config.clone(), &options)?;
            for shape in shapes() {
                check_sample(gpu, &backward, &shape, &Sample::new(&config, &shape)?)?;
            }
        }
    }
    Ok(())
}

/// Gradients by strong decays as far off as those of the recurrence, in parts of the largest.
pub(super) fn recurrence(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for config in [
        Config::of_rule(16, 16, UpdateRule::Gated(Decay::per_head())),
        with_decay(Config::new(16, 12), Decay::per_head()),
    ] {
        let mut samples = Vec::new();
        for strongest in [0.0, -1e-3, -3.0, -8.0, -30.0] {
            let mut sample = Sample::new(&config, &recipes::shape())?;
            sample.decay.iter_mut().for_each(|decay| *decay += strongest);
            samples.push((strongest.to_string(), sample));
        }
        recipes::check(gpu, &config, &samples)?;
    }
    Ok(())
}

/// A mistake in a stage of the decays, or passes in forward time, are further off than the bound.
pub(super) fn mutations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use GradientStage::{Decays, PassDecays, PassOutputs};
    let eps = Normalization::Sum { eps: 0.1 };
    let sum = with_decay(Config::new(6, 5), Decay::per_head()).with_normalization(eps);
    let plain = Config::of_rule(8, 8, UpdateRule::Gated(Decay::per_head()));
    let [grouped, _, packed, tail, padded] = shapes();
    let mistakes = [
        // Decays of reversed passes: not shifted, not ended, in forward order.
        (&sum, &grouped, PassDecays, "decay_of((t + 1u) * ", "decay_of(t * "),
        (&sum, &packed, PassDecays, "if (is_followed(t))", "if (t + 1u < params.total_tokens)"),
        (&sum, &grouped, PassDecays, "(used - 1u - t) *", "t *"),
        (&sum, &tail, PassDecays, "(used - 1u - t) *", "(params.total_tokens - 1u - t) *"),
        (&sum, &grouped, PassDecays, "h / params.group", "0u"),
        // Between the initial state and the first state.
        (&sum, &grouped, PassOutputs, "if (!HAS_DECAY ||", "if (HAS_DECAY ||"),
        (&sum, &packed, PassOutputs, "pass_decays[ranges[n].x *", "pass_decays[ranges[0].x *"),
        // States at the ends of blocks and windows: left out, without their decays, of another.
        (&plain, &grouped, Decays, "let first = row_sum(0u);", "let first = 0.0;"),
        (&plain, &grouped, Decays, "var z = row_sum(thread);", "var z = 0.0;"),
        (&plain, &grouped, Decays, "let added = sums[t];", "let added = 0.0;"),
        (&plain, &grouped, Decays, "decayed(decays[block.last - block.begin], z)", "z"),
        (
            &sum,
            &padded,
            Decays,
            "|| block.is_followed != 0u",
            "|| block.last < params.total_tokens",
        ),
        (
            &plain,
            &grouped,
            Decays,
            "block.state + head * STATE_VEC4, thread",
            "block.state, thread",
        ),
        (
            &plain,
            &grouped,
            Decays,
            "block.of_state + (head * params.group + h) * STATE_VEC4;",
            "block.of_state + head * params.group * STATE_VEC4;",
        ),
        // Tokens of the window.
        (&plain, &grouped, Decays, "let added = strip[at];", "let added = 0.0;"),
        (&plain, &grouped, Decays, "if (i >= t && i < window)", "if (i > t && i < window)"),
        (&plain, &grouped, Decays, "if (i >= t && i < window)", "if (i >= t)"),
        (&plain, &grouped, Decays, "let window = block.last", "let window = block.end"),
        (&plain, &grouped, Decays, "z = decayed(decays[t], z) + added", "z += added"),
        (&plain, &grouped, Decays, "pairs[r] += ", "pairs[r] = "),
        // Tokens of no sequence.
        (&plain, &tail, Decays, "store(block, head, t, 0.0);", ""),
    ];
    check_mistakes(gpu, &mistakes)?;
    [&grouped, &packed].into_iter().try_for_each(|shape| check_unreversed(gpu, (&sum, shape)))
}

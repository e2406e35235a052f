//! Shaders that are wrong on purpose, whose gradients must be further off than the bound.

use libtest_mimic::Failed;
use linear_attention::gradients::{Backward, GradientStage, Recipe};
use linear_attention::update_rule::{Beta, BetaActivation, Decay, DecayActivation, UpdateRule};
use linear_attention::{
    Config, FeatureMap, LinearAttention, Normalization, Options, Shape, reference,
};

use super::{BOUND, Sample, columns, differences};
use crate::adapters::Gpu;

/// A mistake in the shaders' text is further off than the bound.
pub(super) fn mutations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use GradientStage::{Features, Gates, Recurrence, Rows};
    let decay = Decay::per_head().with_activation(DecayActivation::Softplus);
    let beta = Beta::per_head().with_activation(BetaActivation::Sigmoid);
    let delta = Config::of_rule(8, 8, UpdateRule::GatedDelta(decay, beta)).with_l2_norm(true);
    let sums = Config::new(8, 8).with_update_rule(UpdateRule::Gated(decay));
    let softmax = Config::new(8, 8)
        .with_feature_map(FeatureMap::Softmax)
        .with_normalization(Normalization::Sum { eps: 0.1 });
    let mistakes = [
        (&sums, Recurrence, "of_query -= taken", "of_query += taken"),
        (
            &sums,
            Recurrence,
            "states[item.of_nu + f] -= c * taken",
            "states[item.of_nu + f] -= taken",
        ),
        (&sums, Recurrence, "of_decay += of_nu", "of_decay -= of_nu"),
        (
            &sums,
            Recurrence,
            "states[item.of_nu + f] = decayed(row_decay(row, f), of_nu)",
            "states[item.of_nu + f] = of_nu",
        ),
        (&sums, Recurrence, "if (j > 1u) { before = state_after(j - 2u); }", ""),
        (&sums, Recurrence, "of_key += of_nu;", ""),
        (&delta, Recurrence, "of_key -= a * b * recalled", "of_key -= b * recalled"),
        (&delta, Recurrence, "of_decay -= keys[key + f] * b * recalled;", ""),
        (&delta, Recurrence, "of_mu -= keys[key + f] * u;", ""),
        (&delta, Recurrence, "of_v[value + v] = b * sum", "of_v[value + v] = sum"),
        (&delta, Recurrence, "copy_initial(item, thread);", ""),
        (
            &delta,
            Recurrence,
            "states[at] = decayed(row_decay(row, f), of_mu)",
            "states[at] = of_mu",
        ),
        // A token that does not see itself, a state that no block hands on, no eps.
        (
            &sums,
            Recurrence,
            "* params.group + h, state_after(j), thread);",
            "* params.group + h, before, thread);",
        ),
        (&sums, Recurrence, "enter(item, first + j, 0u, state_after(0u), thread);", ""),
        (&softmax, Recurrence, "SCALE * weight + EPS * gain", "SCALE * weight"),
        (&delta, Rows, "- elements(row.x, x4) * along", ""),
        (&delta, Gates, "-rate * sigmoid(y)", "-sigmoid(y)"),
        (&delta, Gates, "sigmoid(x) * sigmoid(-x)", "sigmoid(x)"),
        (&softmax, Rows, "(of_features(row, by, a4) - by.sums.x)", "of_features(row, by, a4)"),
        (
            &softmax,
            Features,
            "queries[begin + FEATURE_VEC4] = vec4<f32>(row.gain)",
            "queries[begin + FEATURE_VEC4] = vec4<f32>(1.0)",
        ),
    ];
    // Several blocks of tokens, and queries that share keys.
    let shape = Shape::new(1, 12, 2).with_kv_heads(1);
    for (config, stage, from, to) in mistakes {
        check_caught(gpu, (config, &shape), &Sample::new(config, &shape)?, (stage, from, to))?;
    }
    columns::mutations(gpu, &delta, &sums)
}

/// A shader with another text is further off than the bound.
pub(super) fn check_caught(
    gpu: &Gpu,
    call: (&Config, &Shape),
    sample: &Sample,
    mistake: (GradientStage, &str, &str),
) -> Result<(), Failed> {
    check_caught_with(gpu, &Options::default(), call, sample, mistake)
}

/// The recipe that has a stage.
fn recipe_of(stage: GradientStage) -> Recipe {
    match stage {
        GradientStage::Recurrence | GradientStage::ColumnSums => Recipe::Recurrence,
        _ => Recipe::Best,
    }
}

pub(super) fn check_caught_with(
    gpu: &Gpu,
    options: &Options<'_>,
    (config, shape): (&Config, &Shape),
    sample: &Sample,
    (stage, from, to): (GradientStage, &str, &str),
) -> Result<(), Failed> {
    let is_there = std::cell::Cell::new(false);
    let edit = |of: GradientStage, wgsl: String| {
        if of != stage {
            return wgsl;
        }
        let edited = wgsl.replace(from, to);
        is_there.set(edited != wgsl);
        edited
    };
    let backward =
        Backward::with_mutation(&gpu.device, config.clone(), options, recipe_of(stage), &edit)?;
    if !is_there.get() {
        return Err(format!("no {from} in {stage:?}").into());
    }
    let (inputs, gradients) = (sample.inputs(config), sample.gradients());
    let expected = reference::backward(config, shape, inputs, gradients)?;
    let found = backward.run(&gpu.queue, shape, inputs, gradients)?;
    if differences(&found, &expected)?.iter().all(|(_, far)| *far <= BOUND) {
        return Err(format!("{stage:?} without {from} is within the bound").into());
    }
    Ok(())
}

//! The cases of the backward pass: gradients against those in f64, within twice the error of the
//! same recurrence in f32.

use super::On;
use super::case::{Case, Sample, Sampling};
use super::compare::Row;
use crate::backward::{Backward, Recipe};
use crate::bind::options::Options;
use crate::error::Error;
use crate::plan::tuning::Tuning;
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::random::Random;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::gradients::{Gradients, OutputGradients};
use crate::problem::io::Inputs;
use crate::problem::shape::{Lens, Shape};
use crate::problem::update_rule::{Beta, BetaActivation, Decay, DecayActivation, UpdateRule};
use crate::reference;

/// Every rule, with grouped heads, packed and padded sequences, odd widths, states, sixteen bits;
/// and the maps whose way back has a formula of its own, with the weights of all heads and of each.
#[must_use]
pub fn backward_cases() -> Vec<Case> {
    let (head, row) = (Decay::per_head(), Decay::per_row());
    let (beta, shared) = (Beta::per_head(), Beta::shared());
    let softplus = head.with_activation(DecayActivation::Softplus);
    let bounded = row.with_activation(DecayActivation::Sigmoid { lower_bound: -2.0 });
    let sigmoid = shared.with_activation(BetaActivation::Sigmoid);
    let (gated, delta, gated_delta) =
        (UpdateRule::Gated, UpdateRule::Delta, UpdateRule::GatedDelta);
    let linear = |k, v| Config::new(k, v);
    let of = |k, v, rule| Config::of_rule(k, v, rule);
    let grouped = |t| Shape::new(1, t, 4).with_kv_heads(2);
    let values = |t| Shape::new(2, t, 2).with_key_heads(1).with_value_heads(4);
    let packed = || Shape::packed(&[40, 0, 3, 17], 2);
    // Gradients that are sums over tokens have an element or two of a head: among few, the mirror's
    // largest error may be small by luck.
    let heads = || Shape::new(1, 40, 64).with_kv_heads(32);
    let packed_heads = || Shape::packed(&[40, 0, 3, 17], 32);
    let padded = || Shape::padded(&[3..40, 0..0, 0..9], 40, 2);
    // A query head reads value heads of several key heads, and has the weights of each.
    let crossed = Shape::new(2, 30, 1).with_key_heads(2).with_value_heads(4);
    let softmax = linear(16, 16).with_feature_map(FeatureMap::Softmax).with_l2_norm(true);
    let exp = linear(16, 12).with_feature_map(FeatureMap::Exp);
    let half = of(16, 16, gated_delta(head, beta)).with_dtype(Dtype::F16);
    let with_eps = linear(9, 7).with_normalization(Normalization::Sum { eps: 0.1 }).with_scale(0.5);
    let t2r = |features| FeatureMap::T2r { features };
    let plain = |k, v, map| linear(k, v).with_feature_map(map);
    let signed = |k, v, map| plain(k, v, map).with_normalization(Normalization::None);
    let hedgehog = plain(9, 7, FeatureMap::Hedgehog).with_update_rule(gated(row));
    let joint = of(12, 8, delta(beta)).with_feature_map(FeatureMap::HedgehogJoint);
    let joint = joint.with_dtype(Dtype::Bf16);
    let product = signed(8, 12, FeatureMap::Product { features: 10 }).with_l2_norm(true);
    let favor = plain(8, 8, FeatureMap::FavorHyperbolic { features: 16 });
    let fourier = signed(8, 8, FeatureMap::Fourier { features: 24 }).with_l2_norm(true);
    let dpfp = plain(6, 8, FeatureMap::Dpfp { nu: 2 });
    let unlike = plain(12, 8, FeatureMap::Elu).with_query_feature_map(t2r(12));
    let cases = [
        ("backward", linear(16, 16), grouped(70)),
        ("backward-odd", with_eps, values(33)),
        ("backward-packed", linear(16, 12), packed()),
        ("backward-segments", linear(12, 9), Shape::new(2, 150, 2).with_value_heads(4)),
        (
            "backward-segments-packed",
            signed(16, 16, FeatureMap::Elu),
            Shape::packed(&[90, 0, 61], 2),
        ),
        ("backward-segments-padded", linear(8, 16), Shape::padded(&[3..90, 0..0, 0..50], 90, 2)),
        (
            "backward-segments-gated",
            linear(12, 9).with_update_rule(gated(head)),
            Shape::new(2, 150, 4).with_kv_heads(2),
        ),
        ("backward-segments-gated-packed", of(16, 16, gated(head)), Shape::packed(&[90, 0, 61], 2)),
        (
            "backward-segments-gates",
            of(8, 12, gated(softplus)),
            Shape::padded(&[3..150, 0..0, 20..77], 150, 32),
        ),
        (
            "backward-segments-delta",
            of(12, 9, delta(beta)).with_l2_norm(true),
            Shape::packed(&[90, 0, 61], 4).with_kv_heads(2),
        ),
        (
            "backward-segments-gated-delta",
            of(8, 12, gated_delta(softplus, sigmoid)),
            Shape::padded(&[3..150, 0..0, 20..77], 150, 32),
        ),
        ("backward-recurrence", linear(16, 12), grouped(70)),
        ("backward-recurrence-packed", linear(9, 7), packed()),
        ("backward-recurrence-gated", linear(12, 16).with_update_rule(gated(head)), grouped(70)),
        ("backward-recurrence-gated-delta", of(16, 16, gated_delta(head, beta)), values(40)),
        ("backward-padded", linear(12, 16).with_update_rule(gated(head)), padded()),
        ("backward-gated", of(16, 16, gated(softplus)), heads()),
        ("backward-gated-constant", of(16, 16, gated(Decay::constant())), packed_heads()),
        ("backward-gated-t2r", plain(16, 12, t2r(20)).with_update_rule(gated(head)), grouped(70)),
        ("backward-gated-softmax", softmax.clone().with_update_rule(gated(head)), values(33)),
        ("backward-gated-rows", linear(12, 9).with_update_rule(gated(row)), values(30)),
        ("backward-delta", of(16, 16, delta(beta)), grouped(70)),
        ("backward-gated-delta", of(16, 16, gated_delta(head, beta)), values(40)),
        ("backward-gated-delta-rows", of(9, 7, gated_delta(bounded, sigmoid)), packed()),
        ("backward-exp", exp.with_query_feature_map(FeatureMap::Sigmoid), grouped(40)),
        ("backward-softmax", softmax, grouped(40)),
        ("backward-f16", half, grouped(40)),
        ("backward-t2r", linear(16, 12).with_feature_map(t2r(20)), grouped(70)),
        ("backward-hedgehog", hedgehog, padded()),
        ("backward-hedgehog-joint", joint, packed()),
        ("backward-product", product, grouped(40)),
        ("backward-favor", favor, crossed),
        ("backward-fourier", fourier, values(30)),
        ("backward-taylor", signed(8, 9, FeatureMap::Taylor), grouped(30)),
        ("backward-dpfp", dpfp, packed()),
        ("backward-unlike", unlike, grouped(40)),
        ("backward-strong", of(12, 9, gated(row)), values(30)),
        ("backward-strong-heads", of(12, 9, gated(head)), values(30)),
        ("backward-strong-gated-delta", of(12, 9, gated_delta(head, beta)), values(30)),
        ("backward-forgets-heads", linear(16, 16).with_update_rule(gated(head)), grouped(70)),
        ("backward-slow", linear(12, 16).with_update_rule(gated(head)), grouped(200)),
        ("backward-forgets", of(16, 16, gated_delta(head, beta)), values(40)),
    ];
    // The heads of keys and of queries with weights of their own, where not all share them.
    let weights = |name| match name {
        "backward-t2r" | "backward-gated-t2r" | "backward-favor" => Some(WeightHeads::new(2, 0)),
        "backward-product" => Some(WeightHeads::new(2, 4)),
        "backward-fourier" => Some(WeightHeads::new(1, 2)),
        "backward-unlike" => Some(WeightHeads::new(0, 1)),
        _ => None,
    };
    let sampling = |name| match name {
        "backward-strong" | "backward-strong-heads" | "backward-strong-gated-delta" => {
            Sampling::SmallFactors
        }
        "backward-slow" => Sampling::SlowDecays,
        "backward-forgets" | "backward-forgets-heads" => Sampling::Forgets,
        _ => Sampling::Ordinary,
    };
    let case = |(name, config, shape): (&'static str, _, _)| {
        let case = Case::new(name, config, shape);
        Case {
            initial_state: true,
            segments: if name.starts_with("backward-segments") { 3 } else { 0 },
            is_backward: true,
            is_recurrence: name.starts_with("backward-recurrence"),
            weights: weights(name).unwrap_or(case.weights),
            sampling: sampling(name),
            ..case
        }
    };
    cases.into_iter().map(case).collect()
}

/// Gradients by the outputs of a case.
struct Given {
    o: Vec<f32>,
    mu: Vec<f32>,
    nu: Vec<f32>,
}

impl Given {
    fn new(seed: u64, lens: &Lens) -> Self {
        // Other numbers than those of the inputs.
        let mut random = Random::new(seed ^ 0x6AD5);
        let mut sample =
            |len: u64| -> Vec<f32> { (0..len).map(|_| 2.0 * random.uniform() - 1.0).collect() };
        Self { o: sample(lens.o), mu: sample(lens.mu), nu: sample(lens.nu) }
    }

    fn gradients(&self) -> OutputGradients<'_> {
        OutputGradients::new(&self.o).with_final_state(&self.mu, &self.nu)
    }
}

/// A case on a device.
pub(super) async fn check(on: On<'_>, case: &Case, seed: u64) -> Vec<Row> {
    let rows = async {
        let (sample, given) = sampled(case, seed)?;
        let backward = backward_of(on.device, case)?;
        let (inputs, gradients) = (sample.inputs(), given.gradients());
        let found = match on.blocks {
            #[cfg(not(target_arch = "wasm32"))]
            true => backward.run(on.queue, &case.shape, inputs, gradients)?,
            _ => backward.run_async(on.queue, &case.shape, inputs, gradients).await?,
        };
        compare(case, (inputs, gradients), &found)
    };
    rows.await.unwrap_or_else(|error: Error| vec![Row::failed(case, STAGE, error.to_string())])
}

/// The pipelines of a case, with a tuning for its segments.
fn backward_of(device: &wgpu::Device, case: &Case) -> Result<Backward, Error> {
    let mut options = Options::default();
    if case.segments > 0 {
        let (limits, device_type) = (device.limits(), device.adapter_info().device_type);
        let mut tuning = Tuning::new(&case.config, &limits, device_type)?;
        case.set_segments(&mut tuning);
        options = options.with_tuning(tuning);
    }
    let recipe = if case.is_recurrence { Recipe::Recurrence } else { Recipe::Best };
    Backward::with_recipe(device, case.config.clone(), &options, recipe)
}

/// A case on what takes slices.
pub(super) fn check_host(
    case: &Case,
    seed: u64,
    compute: &mut ComputeBackward<'_>,
) -> Result<Vec<Row>, Error> {
    let (sample, given) = sampled(case, seed)?;
    let (inputs, gradients) = (sample.inputs(), given.gradients());
    let found = compute(&case.config, &case.shape, inputs, gradients)?;
    compare(case, (inputs, gradients), &found)
}

/// A backward pass on slices.
pub type ComputeBackward<'a> = dyn FnMut(&Config, &Shape, Inputs<'_>, OutputGradients<'_>) -> Result<Gradients<f32>, Error>
    + 'a;

const STAGE: &str = "backward";

fn sampled(case: &Case, seed: u64) -> Result<(Sample, Given), Error> {
    let lens = case.shape.lens(&case.config)?;
    Ok((case.sample(seed, &lens), Given::new(seed, &lens)))
}

fn compare(
    case: &Case,
    (inputs, gradients): (Inputs<'_>, OutputGradients<'_>),
    found: &Gradients<f32>,
) -> Result<Vec<Row>, Error> {
    let (config, shape) = (&case.config, &case.shape);
    let truth = reference::backward(config, shape, inputs, gradients)?;
    let mirror = reference::backward_mirror(config, shape, inputs, gradients)?;
    let (truth_keys, truth_queries) = (&truth.key_weights, &truth.query_weights);
    let (mirror_keys, mirror_queries) = (&mirror.key_weights, &mirror.query_weights);
    let (found_keys, found_queries) = (&found.key_weights, &found.query_weights);
    let tensors = [
        ("gradient of q", &truth.q, &mirror.q, &found.q),
        ("gradient of k", &truth.k, &mirror.k, &found.k),
        ("gradient of v", &truth.v, &mirror.v, &found.v),
        ("gradient of decay", &truth.decay, &mirror.decay, &found.decay),
        ("gradient of beta", &truth.beta, &mirror.beta, &found.beta),
        ("gradient of A_log", &truth.a_log, &mirror.a_log, &found.a_log),
        ("gradient of dt_bias", &truth.dt_bias, &mirror.dt_bias, &found.dt_bias),
        ("gradient of mu", &truth.mu, &mirror.mu, &found.mu),
        ("gradient of nu", &truth.nu, &mirror.nu, &found.nu),
        ("gradient of keys' W", &truth_keys[0], &mirror_keys[0], &found_keys[0]),
        ("gradient of keys' b", &truth_keys[1], &mirror_keys[1], &found_keys[1]),
        ("gradient of queries' W", &truth_queries[0], &mirror_queries[0], &found_queries[0]),
        ("gradient of queries' b", &truth_queries[1], &mirror_queries[1], &found_queries[1]),
    ];
    let is_there = |(_, truth, _, found): &(_, &Vec<f64>, &Vec<f32>, &Vec<f32>)| {
        !truth.is_empty() || !found.is_empty()
    };
    let row = |(tensor, truth, mirror, found): (_, &Vec<f64>, &Vec<f32>, &Vec<f32>)| {
        Row::new(case, STAGE, tensor, truth, mirror, found)
    };
    Ok(tensors.into_iter().filter(is_there).map(row).collect())
}

//! The backward pass of every adapter against the reference's.

mod columns;
mod corrections;
mod decays;
mod maps;
mod mutations;
mod recipes;
mod steps;
mod strides;
mod sums;

use libtest_mimic::Failed;
use linear_attention::error::{BindError, Error, PlanError};
use linear_attention::feature_map::{CustomMap, Weights};
use linear_attention::gradients::{Backward, BackwardTensors, Gradients, OutputGradients};
use linear_attention::update_rule::{Beta, BetaActivation, Decay, DecayActivation};
use linear_attention::{
    Config, Dtype, FeatureMap, Inputs, LinearAttention, Normalization, Shape, UpdateRule, reference,
};

use super::Test;
use super::binding::tensor;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("backward::stored_types", stored_types),
    ("backward::refusals", refusals),
    ("backward::many_tokens", steps::many_tokens),
    ("backward::value_blocks", columns::value_blocks),
    ("backward::strides::views", strides::views),
];

/// The trials that the full matrix alone has: the harness has a case of each rule.
pub(crate) const FULL: &[(&str, Test)] = &[
    ("backward::all_rules", all_rules),
    ("backward::all_widths", all_widths),
    ("backward::maps", maps),
    ("backward::activations", activations),
    ("backward::mutations", mutations::mutations),
    ("backward::maps::trained", maps::trained),
    ("backward::maps::random", maps::random),
    ("backward::maps::products", maps::products),
    ("backward::maps::pieces", maps::pieces),
    ("backward::maps::mutations", maps::mutations),
    ("backward::strides::layouts", strides::layouts),
    ("backward::strides::mutations", strides::mutations),
    ("backward::sums::segments", sums::segments),
    ("backward::sums::configs", sums::configs),
    ("backward::sums::recurrence", sums::recurrence),
    ("backward::sums::mutations", sums::mutations),
    ("backward::decays::segments", decays::segments),
    ("backward::decays::windows", decays::windows),
    ("backward::decays::widths", decays::widths),
    ("backward::decays::recurrence", decays::recurrence),
    ("backward::decays::mutations", decays::mutations),
    ("backward::corrections::segments", corrections::segments),
    ("backward::corrections::windows", corrections::windows),
    ("backward::corrections::widths", corrections::widths),
    ("backward::corrections::many_tokens", corrections::many_tokens),
    ("backward::corrections::recurrence", corrections::recurrence),
    ("backward::corrections::mutations", corrections::mutations),
];

/// The largest difference that a gradient may have, in parts of the tensor's largest element.
const BOUND: f64 = 1e-3;

/// Inputs of a call and gradients by its outputs, no two numbers of which are the same.
pub(crate) struct Sample {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
    a_log: Vec<f32>,
    dt_bias: Vec<f32>,
    mu: Vec<f32>,
    nu: Vec<f32>,
    of_o: Vec<f32>,
    of_mu: Vec<f32>,
    of_nu: Vec<f32>,
    weights: Option<Weights>,
}

impl Sample {
    pub(crate) fn new(config: &Config, shape: &Shape) -> Result<Self, Failed> {
        let lens = shape.lens(config)?;
        let waves = |len: u64, by: f32, from: f32, to: f32| -> Vec<f32> {
            let wave = |i: u64| ((i as f32 * by + 0.5).sin() * 0.5 + 0.5) * (to - from) + from;
            (0..len).map(wave).collect()
        };
        let keys = 1.0 / (config.key_dim as f32).sqrt();
        let mut a_log = waves(lens.gate_weights, 0.7, -0.5, 0.5);
        let heads = (shape.value_heads as usize).min(a_log.len());
        let dt_bias = a_log.split_off(heads);
        Ok(Self {
            q: waves(lens.q, 0.713, -1.0, 1.0),
            k: waves(lens.k, 1.137, -keys, keys),
            v: waves(lens.v, 0.377, -1.0, 1.0),
            decay: waves(lens.decay, 0.931, -0.3, 0.0),
            beta: waves(lens.beta, 0.577, 0.1, 0.9),
            a_log,
            dt_bias,
            mu: waves(lens.mu, 0.219, -0.5, 0.5),
            nu: waves(lens.nu, 0.619, 0.5, 1.0),
            of_o: waves(lens.o, 0.31, -1.0, 1.0),
            of_mu: waves(lens.mu, 0.57, -1.0, 1.0),
            of_nu: waves(lens.nu, 0.83, -1.0, 1.0),
            weights: None,
        })
    }

    pub(crate) fn inputs(&self, config: &Config) -> Inputs<'_> {
        let mut inputs =
            Inputs::new(&self.q, &self.k, &self.v).with_initial_state(&self.mu, &self.nu);
        if config.update_rule.decay().is_some() {
            inputs = inputs.with_decay(&self.decay);
        }
        if config.update_rule.beta().is_some() {
            inputs = inputs.with_beta(&self.beta);
        }
        if !self.a_log.is_empty() {
            inputs = inputs.with_gate_weights(&self.a_log, &self.dt_bias);
        }
        inputs.with_weights(self.weights.as_ref())
    }

    fn gradients(&self) -> OutputGradients<'_> {
        OutputGradients::new(&self.of_o).with_final_state(&self.of_mu, &self.of_nu)
    }
}

/// The largest difference of each tensor's gradients, in parts of its largest element.
fn differences(
    found: &Gradients<f32>,
    expected: &Gradients<f64>,
) -> Result<Vec<(&'static str, f64)>, Failed> {
    let tensors = [
        ("q", &found.q, &expected.q),
        ("k", &found.k, &expected.k),
        ("v", &found.v, &expected.v),
        ("decay", &found.decay, &expected.decay),
        ("beta", &found.beta, &expected.beta),
        ("A_log", &found.a_log, &expected.a_log),
        ("dt_bias", &found.dt_bias, &expected.dt_bias),
        ("mu", &found.mu, &expected.mu),
        ("nu", &found.nu, &expected.nu),
        ("W of keys", &found.key_weights[0], &expected.key_weights[0]),
        ("b of keys", &found.key_weights[1], &expected.key_weights[1]),
        ("W of queries", &found.query_weights[0], &expected.query_weights[0]),
        ("b of queries", &found.query_weights[1], &expected.query_weights[1]),
    ];
    let difference = |(name, found, expected): (&'static str, &Vec<f32>, &Vec<f64>)| {
        if found.len() != expected.len() {
            return Err(format!("{name}: {} of {} elements", found.len(), expected.len()).into());
        }
        let largest = expected.iter().fold(1e-6f64, |most, x| most.max(x.abs()));
        let far = found.iter().zip(expected).map(|(found, expected)| {
            let far = (f64::from(*found) - expected).abs() / largest;
            if far.is_nan() { f64::INFINITY } else { far }
        });
        Ok((name, far.fold(0.0, f64::max)))
    };
    tensors.into_iter().map(difference).collect()
}

fn check(gpu: &Gpu, backward: &Backward, shape: &Shape) -> Result<(), Failed> {
    check_sample(gpu, backward, shape, &Sample::new(backward.config(), shape)?)
}

fn check_sample(
    gpu: &Gpu,
    backward: &Backward,
    shape: &Shape,
    sample: &Sample,
) -> Result<(), Failed> {
    let config = backward.config();
    let (inputs, gradients) = (sample.inputs(config), sample.gradients());
    let expected = reference::backward(config, shape, inputs, gradients)?;
    let found = backward.run(&gpu.queue, shape, inputs, gradients)?;
    for (tensor, far) in differences(&found, &expected)? {
        if far > BOUND {
            return Err(format!("{config:?}, {shape:?}: {tensor} is {far:e} off").into());
        }
    }
    Ok(())
}

/// All rules, with the widths that they are tested at.
pub(crate) fn configs(key_dim: u32, value_dim: u32) -> Vec<Config> {
    let linear = Config::new(key_dim, value_dim);
    let gated = |rule| linear.clone().with_update_rule(rule);
    vec![
        linear.clone(),
        linear.clone().with_normalization(Normalization::Sum { eps: 0.1 }).with_scale(0.5),
        gated(UpdateRule::Gated(Decay::per_head())),
        gated(UpdateRule::Gated(Decay::per_row())),
        Config::of_rule(key_dim, value_dim, UpdateRule::Gated(Decay::constant())),
        Config::of_rule(key_dim, value_dim, UpdateRule::Delta(Beta::per_head())),
        Config::of_rule(
            key_dim,
            value_dim,
            UpdateRule::GatedDelta(Decay::per_head(), Beta::shared()),
        ),
        Config::of_rule(
            key_dim,
            value_dim,
            UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head()),
        ),
    ]
}

/// All rules, in one block of tokens and in several, with grouped queries and grouped values.
fn all_rules(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    configs(9, 7).into_iter().try_for_each(|config| check_shapes(gpu, config))?;
    // Rows of vec4s.
    check_shapes(gpu, Config::new(8, 12))
}

/// The same with rows of vec4s, and wider than a workgroup.
fn all_widths(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    configs(8, 12).into_iter().try_for_each(|config| check_shapes(gpu, config))?;
    for config in configs(72, 100) {
        check(gpu, &columns::in_value_blocks(gpu, config.clone())?, &Shape::new(1, 20, 1))?;
        check(gpu, &Backward::new(&gpu.device, config)?, &Shape::new(1, 20, 4))?;
    }
    Ok(())
}

fn check_shapes(gpu: &Gpu, config: Config) -> Result<(), Failed> {
    for backward in
        [columns::in_value_blocks(gpu, config.clone())?, Backward::new(&gpu.device, config)?]
    {
        check(gpu, &backward, &Shape::new(2, 7, 4).with_kv_heads(2))?;
        check(gpu, &backward, &Shape::new(1, 50, 2).with_key_heads(1).with_value_heads(4))?;
        check(gpu, &backward, &Shape::packed(&[0, 40, 0, 3], 2))?;
        check(gpu, &backward, &Shape::padded(&[3..40, 0..0, 0..9], 40, 2))?;
        check(gpu, &backward, &Shape::new(1, 0, 2))?;
    }
    Ok(())
}

fn maps(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use FeatureMap::{Elu, Exp, Identity, Relu, ReluSquared, Sigmoid, Silu, Softmax};
    let shape = Shape::new(1, 30, 2).with_kv_heads(1);
    let check = |config: Config| {
        let backward = Backward::new(&gpu.device, config)?;
        check(gpu, &backward, &shape)
    };
    for map in [Relu, ReluSquared, Elu, Exp, Sigmoid, Softmax] {
        check(Config::new(6, 8).with_feature_map(map).with_l2_norm(true))?;
    }
    check(Config::new(8, 8).with_feature_map(ReluSquared))?;
    for map in [Identity, Silu, Exp, Softmax] {
        let config = Config::new(8, 8).with_feature_map(map).with_l2_norm(true);
        check(config.with_normalization(Normalization::None))?;
    }
    check(Config::new(8, 8).with_feature_map(Relu).with_query_feature_map(Exp))
}

fn activations(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let shape = Shape::packed(&[20, 11], 4).with_key_heads(2).with_value_heads(4);
    let softplus = |decay: Decay| decay.with_activation(DecayActivation::Softplus);
    let sigmoid =
        |decay: Decay| decay.with_activation(DecayActivation::Sigmoid { lower_bound: -2.0 });
    let beta = Beta::per_head().with_activation(BetaActivation::Sigmoid);
    let shared = Beta::shared().with_activation(BetaActivation::Sigmoid);
    for rule in [
        UpdateRule::GatedDelta(softplus(Decay::per_head()), beta),
        UpdateRule::GatedDelta(softplus(Decay::per_row()), shared),
        UpdateRule::GatedDelta(sigmoid(Decay::per_row()), beta),
        UpdateRule::Gated(sigmoid(Decay::per_head())),
        UpdateRule::Delta(shared),
    ] {
        let backward = Backward::new(&gpu.device, Config::of_rule(8, 8, rule))?;
        check(gpu, &backward, &shape)?;
    }
    Ok(())
}

/// q, k, v, decays and betas in sixteen bits; gradients are f32.
fn stored_types(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    for (dtype, width) in [(Dtype::F16, 8), (Dtype::Bf16, 7)] {
        let decay = Decay::per_head().with_dtype(dtype);
        let rule = UpdateRule::GatedDelta(decay, Beta::per_head().with_dtype(dtype));
        let config = Config::of_rule(width, width, rule).with_dtype(dtype);
        let backward = Backward::new(&gpu.device, config)?;
        check(gpu, &backward, &Shape::new(1, 21, 2))?;
    }
    Ok(())
}

fn refusals(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let wgsl = "fn phi(row: Row, feature: u32) -> f32 { return abs(x(row, feature)); }";
    let own = CustomMap::new("own", wgsl, 8, |x, _, features| {
        features.iter_mut().zip(x).for_each(|(feature, x)| *feature = x.abs());
    })?;
    let own = Config::new(8, 8).with_feature_map(FeatureMap::Custom(own.non_negative().into()));
    let refused = Backward::new(&gpu.device, own);
    assert!(matches!(refused, Err(Error::NoDerivative { .. })), "{refused:?}");
    let backward = Backward::new(&gpu.device, Config::new(8, 8))?;
    let shape = Shape::new(1, 5, 1);
    let refused = backward.plan(&shape.clone().with_slots(2));
    assert_eq!(refused.err(), Some(PlanError::Backward { what: "slots" }));
    let short = [0.0; 39];
    let rows = [0.5; 40];
    let inputs = Inputs::new(&rows, &rows, &rows);
    let refused = backward.run(&gpu.queue, &shape, inputs, OutputGradients::new(&short));
    assert!(matches!(refused, Err(Error::Len { tensor: "gradient of o", .. })), "{refused:?}");
    let plan = backward.plan(&shape)?;
    let buffers = [(); 7].map(|()| tensor(gpu, &rows));
    let [q, k, v, of_o, of_q, of_k, of_v] = &buffers;
    let scratch = tensor(gpu, &vec![0.0; plan.scratch_size() as usize / 4]);
    let whole = || scratch.as_entire_buffer_binding();
    let tensors = BackwardTensors::new([q, k, v], of_o, [of_q, of_k, of_v]);
    let _ = backward.bind(&plan, &tensors, whole())?;
    let twice = BackwardTensors::new([q, k, v], of_o, [of_q, of_k, of_q]);
    let refused = backward.bind(&plan, &twice, whole());
    let overlap = BindError::Overlap { first: "of_q", second: "of_v", bytes: 160 };
    assert_eq!(refused.err(), Some(overlap));
    let gated = tensors.with_decay(whole(), whole());
    let refused = backward.bind(&plan, &gated, whole());
    assert_eq!(refused.err(), Some(BindError::Unexpected { tensor: "decay" }));
    Ok(())
}

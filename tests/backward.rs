//! Gradients against central differences of the recurrence in f64.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use linear_attention::error::Error;
use linear_attention::feature_map::{CustomMap, Projection, Weights};
use linear_attention::gradients::{Gradients, OutputGradients};
use linear_attention::reference::{Output64, backward, recurrent};
use linear_attention::shape::TensorStrides;
use linear_attention::update_rule::{Beta, BetaActivation, Decay, DecayActivation};
use linear_attention::{Config, FeatureMap, Inputs, Normalization, Shape, UpdateRule};

/// Numbers that repeat with no period in sight, between `from` and `to`.
fn waves(len: usize, salt: f32, from: f32, to: f32) -> Vec<f32> {
    let wave = |i: usize| ((i as f32 * (0.7 + salt)).sin() * 43758.547).rem_euclid(1.0);
    (0..len).map(|i| from + (to - from) * wave(i + 1)).collect()
}

/// The tensors of a call, each of which is differentiated by.
#[derive(Clone)]
struct Sample {
    config: Config,
    shape: Shape,
    tensors: [Vec<f32>; 9],
    weights: Option<Weights>,
}

const NAMES: [&str; 9] = ["q", "k", "v", "decay", "beta", "A_log", "dt_bias", "mu", "nu"];

impl Sample {
    fn new(config: Config, shape: Shape) -> Self {
        config.validate().unwrap();
        let lens = shape.lens(&config).unwrap();
        let heads = shape.value_heads as usize;
        let dt_bias = (lens.gate_weights as usize).saturating_sub(heads);
        let a_log = lens.gate_weights as usize - dt_bias;
        let mut tensors = [
            waves(lens.q as usize, 0.01, -1.0, 1.0),
            waves(lens.k as usize, 0.02, -0.6, 0.6),
            waves(lens.v as usize, 0.03, -1.0, 1.0),
            waves(lens.decay as usize, 0.04, -0.7, -0.05),
            waves(lens.beta as usize, 0.05, 0.2, 0.9),
            waves(a_log, 0.06, -0.5, 0.5),
            waves(dt_bias, 0.07, -0.5, 0.5),
            waves(lens.mu as usize, 0.08, -0.5, 0.5),
            waves(lens.nu as usize, 0.09, 0.5, 1.0),
        ];
        // Padding may be anything.
        if let Some(ranges) = shape.token_ranges().filter(|_| shape.strides.is_none()) {
            let tokens = (shape.batch * shape.seq_len) as usize;
            for tensor in &mut tensors[..3] {
                let row = tensor.len() / tokens;
                for (t, row) in tensor.chunks_mut(row).enumerate() {
                    if !ranges.iter().any(|range| range.contains(&t)) {
                        row.fill(f32::NAN);
                    }
                }
            }
        }
        let weights = Weights::sample(&config, 7).unwrap().map(|weights| {
            let own = |projection: Option<Projection>, heads: u32, map: &FeatureMap, salt| {
                projection.map(|_| {
                    let (p, k) = (map.projections(config.key_dim), config.key_dim);
                    let weight = waves((heads * p * k) as usize, salt, -0.8, 0.8);
                    let bias = waves((heads * p) as usize, salt + 0.01, -0.3, 0.3);
                    Projection::new(heads, p, k, &weight, Some(&bias)).unwrap()
                })
            };
            let keys = own(weights.keys, shape.key_heads, config.key_map(), 0.1);
            Weights::apart(keys, own(weights.queries, 1, config.query_map(), 0.2))
        });
        Self { config, shape, tensors, weights }
    }

    fn inputs(&self) -> Inputs<'_> {
        let [q, k, v, decay, beta, a_log, dt_bias, mu, nu] = &self.tensors;
        let rule = self.config.update_rule;
        let mut inputs = Inputs::new(q, k, v).with_initial_state(mu, nu);
        inputs.decay = rule.decay().map(|_| &decay[..]);
        inputs.beta = rule.beta().map(|_| &beta[..]);
        if !a_log.is_empty() {
            inputs = inputs.with_gate_weights(a_log, dt_bias);
        }
        inputs.with_weights(self.weights.as_ref())
    }

    fn gradients_of_output(&self) -> [Vec<f32>; 3] {
        let lens = self.shape.lens(&self.config).unwrap();
        [(lens.o, 0.31), (lens.mu, 0.32), (lens.nu, 0.33)]
            .map(|(len, salt)| waves(len as usize, salt, -1.0, 1.0))
    }

    /// The loss whose gradients by the outputs those are.
    fn loss(&self) -> f64 {
        let Output64 { o, mu, nu } = recurrent(&self.config, &self.shape, self.inputs()).unwrap();
        let product = |of: &[f32], x: &[f64]| -> f64 {
            of.iter().zip(x).map(|(of, x)| f64::from(*of) * x).sum()
        };
        let [of_o, of_mu, of_nu] = self.gradients_of_output();
        product(&of_o, &o) + product(&of_mu, &mu) + product(&of_nu, &nu)
    }

    fn backward(&self) -> Gradients<f64> {
        let [o, mu, nu] = self.gradients_of_output();
        let gradients = OutputGradients::new(&o).with_final_state(&mu, &nu);
        backward(&self.config, &self.shape, self.inputs(), gradients).unwrap()
    }
}

/// Fails unless `gradient` is the slope of the loss by an element of the sample, for some of the
/// elements.
fn check(sample: &Sample, name: &str, gradient: &[f64], at: impl Fn(&mut Sample) -> &mut [f32]) {
    let mut changed = sample.clone();
    let len = at(&mut changed).len();
    assert_eq!(gradient.len(), len, "{name}");
    let largest = gradient.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    // Some 40 elements, the last one too.
    for i in (0..len).step_by((len / 40).max(1)).chain(len.checked_sub(1)) {
        let x = at(&mut changed)[i];
        if x.is_nan() {
            assert_eq!(gradient[i], 0.0, "{name}[{i}], which is padding");
            continue;
        }
        let mut side = |to: f32| {
            at(&mut changed)[i] = to;
            (f64::from(to), changed.loss())
        };
        let h = 1.0 / 16384.0;
        if x.abs() < h {
            // A map may have a kink at 0.
            continue;
        }
        let ((below, lower), (above, upper)) = (side(x - h), side(x + h));
        side(x);
        let slope = (upper - lower) / (above - below);
        let far = (slope - gradient[i]).abs() / (largest + 1e-9);
        assert!(far < 1e-4, "{:?}: {name}[{i}]: {slope} and {}", sample.config, gradient[i]);
    }
}

fn check_all(config: Config, shape: Shape) {
    let sample = Sample::new(config, shape);
    let found = sample.backward();
    let all = [
        &found.q,
        &found.k,
        &found.v,
        &found.decay,
        &found.beta,
        &found.a_log,
        &found.dt_bias,
        &found.mu,
        &found.nu,
    ];
    for (i, (name, gradient)) in NAMES.into_iter().zip(all).enumerate() {
        check(&sample, name, gradient, |sample| &mut sample.tensors[i]);
    }
    check_weights(&sample, &found);
}

/// The same of W and b: a projection cannot be changed, so it is made again.
fn check_weights(sample: &Sample, found: &Gradients<f64>) {
    let Some(weights) = &sample.weights else { return };
    let key_dim = sample.config.key_dim;
    for (is_keys, projection, [of_weight, of_bias]) in
        [(true, &weights.keys, &found.key_weights), (false, &weights.queries, &found.query_weights)]
    {
        let map = if is_keys { sample.config.key_map() } else { sample.config.query_map() };
        let Some(projection) = projection else { continue };
        let (heads, p) = (projection.heads(), map.projections(key_dim));
        let salt = if is_keys { 0.1 } else { 0.2 };
        let mut weight = waves((heads * p * key_dim) as usize, salt, -0.8, 0.8);
        let mut bias = waves((heads * p) as usize, salt + 0.01, -0.3, 0.3);
        assert_eq!((of_weight.len(), of_bias.len()), (weight.len(), bias.len()));
        let loss = |weight: &[f32], bias: &[f32]| {
            let own = Projection::new(heads, p, key_dim, weight, Some(bias)).unwrap();
            let mut weights = weights.clone();
            *(if is_keys { &mut weights.keys } else { &mut weights.queries }) = Some(own);
            Sample { weights: Some(weights), ..sample.clone() }.loss()
        };
        let h = 1.0 / 16384.0;
        for i in (0..weight.len()).step_by(7) {
            let x = weight[i];
            let mut side = |to: f32| {
                weight[i] = to;
                (f64::from(to), loss(&weight, &bias))
            };
            let ((below, lower), (above, upper)) = (side(x - h), side(x + h));
            weight[i] = x;
            let slope = (upper - lower) / (above - below);
            assert!((slope - of_weight[i]).abs() < 1e-4 * (1.0 + slope.abs()), "{map} W[{i}]");
        }
        for i in (0..bias.len()).step_by(3) {
            let x = bias[i];
            let mut side = |to: f32| {
                bias[i] = to;
                (f64::from(to), loss(&weight, &bias))
            };
            let ((below, lower), (above, upper)) = (side(x - h), side(x + h));
            bias[i] = x;
            let slope = (upper - lower) / (above - below);
            assert!((slope - of_bias[i]).abs() < 1e-4 * (1.0 + slope.abs()), "{map} b[{i}]");
        }
    }
}

fn shape() -> Shape {
    Shape::new(2, 5, 4).with_kv_heads(2)
}

#[test]
fn element_wise_maps() {
    use FeatureMap::{Elu, Exp, Identity, Relu, ReluSquared, Sigmoid, Silu};
    for map in [Elu, Exp, Identity, Relu, ReluSquared, Sigmoid, Silu] {
        for eps in [0.0, 0.5] {
            let config = Config::new(3, 2)
                .with_feature_map(map.clone())
                .with_scale(0.7)
                .with_normalization(Normalization::SignedSum { eps });
            // Weights of both signs may add up to nearly nothing, whose quotient has no slope to
            // speak of.
            let is_signed = matches!(map, Identity | Silu);
            let config = match is_signed {
                true => config.with_normalization(Normalization::None),
                false => config,
            };
            check_all(config, shape());
        }
        let plain = Config::new(3, 2).with_feature_map(map);
        check_all(plain.with_normalization(Normalization::None), shape());
    }
}

#[test]
fn row_wise_maps() {
    use FeatureMap::{
        Dpfp, Favor, Fourier, Hedgehog, HedgehogJoint, Product, Softmax, T2r, Taylor,
    };
    for map in [
        Softmax,
        T2r { features: 4 },
        Hedgehog,
        HedgehogJoint,
        Product { features: 4 },
        Favor { features: 4 },
        Fourier { features: 8 },
        Taylor,
        Dpfp { nu: 1 },
    ] {
        let mut config = Config::new(4, 2).with_feature_map(map);
        if !config.is_non_negative() {
            config = config.with_normalization(Normalization::None);
        }
        check_all(config, shape());
    }
    check_all(Config::new(4, 2).with_l2_norm(true), shape());
    let apart = Config::new(4, 2).with_feature_map(FeatureMap::Relu);
    check_all(apart.with_query_feature_map(FeatureMap::T2r { features: 4 }), shape());
}

#[test]
fn decays() {
    let softplus = |decay: Decay| decay.with_activation(DecayActivation::Softplus);
    let sigmoid =
        |decay: Decay| decay.with_activation(DecayActivation::Sigmoid { lower_bound: -3.0 });
    for decay in [
        Decay::per_head(),
        Decay::per_row(),
        Decay::constant(),
        softplus(Decay::per_head()),
        softplus(Decay::per_row()),
        sigmoid(Decay::per_head()),
    ] {
        let config = Config::of_rule(3, 2, UpdateRule::Gated(decay));
        check_all(config.clone(), shape());
        let config = config.with_feature_map(FeatureMap::Elu);
        check_all(config.with_normalization(Normalization::default()), shape());
    }
}

#[test]
fn corrections() {
    let sigmoid = Beta::shared().with_activation(BetaActivation::Sigmoid);
    for rule in [
        UpdateRule::Delta(Beta::per_head()),
        UpdateRule::Delta(sigmoid),
        UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head()),
        UpdateRule::GatedDelta(Decay::per_row(), sigmoid),
    ] {
        let grouped_values = Shape::new(2, 5, 2).with_key_heads(1).with_value_heads(4);
        check_all(Config::of_rule(3, 2, rule), grouped_values);
        check_all(Config::of_rule(3, 2, rule).with_l2_norm(true), shape());
    }
}

/// Packed, padded and strided calls; the empty ones pass the gradient of their state on.
#[test]
fn layouts_of_tokens() {
    let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    for config in [Config::new(3, 2), Config::of_rule(3, 2, rule)] {
        check_all(config.clone(), Shape::packed(&[3, 0, 4], 2));
        check_all(config.clone(), Shape::padded(&[1..4, 0..0, 0..2], 4, 2));
        let shape = shape();
        let strides = TensorStrides::heads_first(&config, &shape);
        check_all(config, shape.with_strides(strides));
    }
}

/// A row without any weight is 0 whatever its neighbours are, and has no gradient.
#[test]
fn rows_without_weight() {
    let config = Config::new(2, 2).with_feature_map(FeatureMap::Relu);
    let (q, v) = ([-1.0, -1.0, 1.0, 0.5], [1.0, 2.0, 3.0, 4.0]);
    let inputs = Inputs::new(&q, &[1.0; 4], &v);
    let found = backward(&config, &Shape::new(1, 2, 1), inputs, OutputGradients::new(&[1.0; 4]));
    let found = found.unwrap();
    assert_eq!(found.q[..2], [0.0, 0.0]);
    assert!(found.q.iter().chain(&found.k).chain(&found.v).all(|x| x.is_finite()));
    // The average of two tokens of one weight.
    assert!(found.v.iter().all(|x| (x - 0.5).abs() < 1e-12));
}

#[test]
fn refusals() {
    let wgsl = "fn phi(row: Row, feature: u32) -> f32 { return 1.0; }";
    let map = CustomMap::new("mine", wgsl, 2, |_, _, features| features.fill(1.0)).unwrap();
    let config = Config::new(2, 2)
        .with_feature_map(FeatureMap::Custom(map.into()))
        .with_normalization(Normalization::None);
    let inputs = Inputs::new(&[1.0; 2], &[1.0; 2], &[1.0; 2]);
    let shape = Shape::new(1, 1, 1);
    let refused = backward(&config, &shape, inputs, OutputGradients::new(&[1.0; 2]));
    assert!(matches!(refused, Err(Error::NoDerivative { .. })), "{refused:?}");
    let refused = backward(&Config::new(2, 2), &shape, inputs, OutputGradients::new(&[1.0; 3]));
    assert!(matches!(refused, Err(Error::Len { tensor: "gradient of o", .. })), "{refused:?}");
}

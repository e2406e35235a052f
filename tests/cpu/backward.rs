//! Gradients of the engine against those of the reference.

use linear_attention::cpu::CpuAttention;
use linear_attention::error::Error;
use linear_attention::feature_map::Weights;
use linear_attention::gradients::OutputGradients;
use linear_attention::update_rule::{Beta, BetaActivation, Decay, DecayActivation};
use linear_attention::{Config, FeatureMap, Normalization, Shape, UpdateRule, reference};

use crate::{Sample, configs, with_threads};

fn assert_close(config: &Config, name: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let largest = expected.iter().fold(1e-6f64, |most, x| most.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        let far = (f64::from(*found) - expected).abs() / largest;
        assert!(far < 1e-3, "{config:?}: {name}[{i}]: {found} and {expected}");
    }
}

fn check(config: &Config, shape: &Shape) {
    let sample = Sample::new(config, shape, 0.5);
    let lens = shape.lens(config).unwrap();
    let waves =
        |len: u64, by: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * by + 0.3).sin()).collect() };
    let weights = Weights::sample(config, 3).unwrap();
    let a_log = shape.value_heads as usize;
    let gate_weights = waves(lens.gate_weights, 0.7);
    let mut inputs = sample.inputs_with_state().with_weights(weights.as_ref());
    if !gate_weights.is_empty() {
        let (a, bias) = gate_weights.split_at(a_log);
        inputs = inputs.with_gate_weights(a, bias);
    }
    let (o, mu, nu) = (waves(lens.o, 0.31), waves(lens.mu, 0.57), waves(lens.nu, 0.83));
    let gradients = OutputGradients::new(&o).with_final_state(&mu, &nu);
    let expected = reference::backward(config, shape, inputs, gradients).unwrap();
    let attention = CpuAttention::new(config.clone()).unwrap();
    let found = with_threads(2, || attention.backward(shape, inputs, gradients)).unwrap();
    for (name, found, expected) in [
        ("q", &found.q, &expected.q),
        ("k", &found.k, &expected.k),
        ("v", &found.v, &expected.v),
        ("decay", &found.decay, &expected.decay),
        ("beta", &found.beta, &expected.beta),
        ("A_log", &found.a_log, &expected.a_log),
        ("dt_bias", &found.dt_bias, &expected.dt_bias),
        ("mu", &found.mu, &expected.mu),
        ("nu", &found.nu, &expected.nu),
        ("key weight", &found.key_weights[0], &expected.key_weights[0]),
        ("key bias", &found.key_weights[1], &expected.key_weights[1]),
        ("query weight", &found.query_weights[0], &expected.query_weights[0]),
        ("query bias", &found.query_weights[1], &expected.query_weights[1]),
    ] {
        assert_close(config, name, found, expected);
    }
}

/// All rules, in one block of tokens and in several, with grouped queries and grouped values.
#[test]
fn all_rules() {
    for config in configs(20, 19) {
        check(&config, &Shape::new(2, 7, 4).with_kv_heads(2));
        check(&config, &Shape::new(1, 150, 2).with_key_heads(1).with_value_heads(4));
        check(&config, &Shape::packed(&[40, 0, 3], 2));
        check(&config, &Shape::padded(&[3..40, 0..0, 0..9], 40, 2));
    }
}

/// Sequences of several pieces, with heads that pieces have together and heads that they do not.
#[test]
fn several_pieces() {
    for config in configs(9, 7).into_iter().filter(|config| config.update_rule.beta().is_none()) {
        check(&config, &Shape::new(1, 1100, 8).with_kv_heads(2));
        check(&config, &Shape::packed(&[600, 513], 1));
    }
}

#[test]
fn maps_and_activations() {
    use FeatureMap::{Exp, Favor, Hedgehog, Identity, Relu, ReluSquared, Softmax, T2r};
    let shape = Shape::new(1, 40, 2).with_kv_heads(1);
    for map in
        [Relu, ReluSquared, Exp, Softmax, Hedgehog, T2r { features: 12 }, Favor { features: 16 }]
    {
        check(&Config::new(8, 8).with_feature_map(map), &shape);
    }
    let signed = Config::new(8, 8).with_feature_map(Identity);
    check(&signed.with_normalization(Normalization::None).with_l2_norm(true), &shape);
    let decay = Decay::per_row().with_activation(DecayActivation::Softplus);
    let beta = Beta::shared().with_activation(BetaActivation::Sigmoid);
    check(&Config::of_rule(8, 8, UpdateRule::GatedDelta(decay, beta)), &shape);
    check(&Config::of_rule(8, 8, UpdateRule::Gated(Decay::constant())), &shape);
}

/// A factor common to a query cancels in the gradients as it does in o: the largest queries have
/// gradients as small as they are large.
#[test]
fn large_and_small_queries() {
    let config = Config::new(4, 4).with_feature_map(FeatureMap::Relu);
    let shape = Shape::new(1, 6, 1);
    let sample = Sample::new(&config, &shape, 0.5);
    let attention = CpuAttention::new(config.clone()).unwrap();
    let of = |factor: f32| {
        let q: Vec<f32> = sample.q.iter().map(|x| factor * x).collect();
        let mut inputs = sample.inputs();
        inputs.q = &q;
        let o = [1.0; 24];
        let gradients: Vec<f32> = o.iter().enumerate().map(|(i, x)| x * (i as f32).cos()).collect();
        attention.backward(&shape, inputs, OutputGradients::new(&gradients)).unwrap()
    };
    let expected = of(1.0);
    for factor in [1e-20, 1e20] {
        let found = of(factor);
        for (found, expected) in found.q.iter().zip(&expected.q) {
            assert!((found * factor - expected).abs() < 1e-4 * (1.0 + expected.abs()));
        }
        assert_close(
            &config,
            "v",
            &found.v,
            &expected.v.iter().map(|x| f64::from(*x)).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn refusals() {
    let config = Config::new(4, 4);
    let attention = CpuAttention::new(config.clone()).unwrap();
    let shape = Shape::new(1, 3, 1);
    let sample = Sample::new(&config, &shape, 0.5);
    let refused = attention.backward(&shape, sample.inputs(), OutputGradients::new(&[1.0; 11]));
    assert!(matches!(refused, Err(Error::Len { tensor: "gradient of o", .. })), "{refused:?}");
    let pooled = shape.with_slots(2);
    let refused = attention.backward(&pooled, sample.inputs(), OutputGradients::new(&[1.0; 12]));
    assert!(matches!(refused, Err(Error::HostShape { what: "slots" })), "{refused:?}");
}

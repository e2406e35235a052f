//! Gradients of the engine against those of the reference.

use linear_attention::cpu::CpuAttention;
use linear_attention::error::Error;
use linear_attention::feature_map::Weights;
use linear_attention::gradients::OutputGradients;
use linear_attention::update_rule::{Beta, BetaActivation, Decay, DecayActivation};
use linear_attention::{Config, FeatureMap, Normalization, Shape, UpdateRule, reference};

use crate::{Sample, assert_slices_near, configs, with_threads};

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
    // Of no tokens they are given as well.
    if config.update_rule.decay().is_some() {
        inputs = inputs.with_decay(&sample.decay);
    }
    if config.update_rule.beta().is_some() {
        inputs = inputs.with_beta(&sample.beta);
    }
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

/// The rules that go by blocks of tokens between states that are computed again.
fn configs_of_blocks(key_dim: u32, value_dim: u32) -> Vec<Config> {
    let normalized = Config::new(key_dim, value_dim);
    let mut all = vec![normalized.with_update_rule(UpdateRule::Gated(Decay::per_head()))];
    let rest = configs(key_dim, value_dim).into_iter().filter(|config| {
        let decay = config.update_rule.decay();
        config.update_rule != UpdateRule::Linear
            && decay.is_none_or(|decay| decay == Decay::per_head())
    });
    all.extend(rest);
    all
}

/// Sequences that end at, before and behind the end of a tile of tokens, of a block and of a
/// segment of blocks; several heads that read one state or have one key; more heads than a task
/// has.
#[test]
fn ends_of_blocks() {
    for config in configs_of_blocks(20, 12) {
        for tokens in [0, 1, 3, 4, 5, 7, 8, 9, 31, 32, 33, 64, 127, 128, 129] {
            check(&config, &Shape::new(1, tokens, 2));
        }
        check(&config, &Shape::new(1, 45, 6).with_kv_heads(2));
        check(&config, &Shape::new(1, 45, 2).with_key_heads(2).with_value_heads(12));
        check(&config, &Shape::packed(&[700, 0, 33, 1], 1));
    }
}

/// A gradient by the state between two parts of a sequence goes on from the later to the earlier.
#[test]
fn parts_of_a_sequence_are_the_sequence() {
    const TOKENS: u32 = 150;
    for config in configs_of_blocks(12, 9) {
        let shape = |tokens: u32| Shape::new(1, tokens, 2);
        let sample = Sample::new(&config, &shape(TOKENS), 0.5);
        let attention = CpuAttention::new(config.clone()).unwrap();
        let lens = shape(TOKENS).lens(&config).unwrap();
        let waves =
            |len: u64, by: f32| -> Vec<f32> { (0..len).map(|i| (i as f32 * by).sin()).collect() };
        let (o, mu, nu) = (waves(lens.o, 0.31), waves(lens.mu, 0.57), waves(lens.nu, 0.83));
        let given = OutputGradients::new(&o).with_final_state(&mu, &nu);
        let whole = attention.backward(&shape(TOKENS), sample.inputs_with_state(), given).unwrap();
        for first in [1, 31, 50, 64, 149] {
            let rows = |x: &[f32], tokens: std::ops::Range<u32>| -> Vec<f32> {
                let row = x.len() / TOKENS as usize;
                x[tokens.start as usize * row..tokens.end as usize * row].to_vec()
            };
            let part = |tokens: std::ops::Range<u32>, mu: &[f32], nu: &[f32]| Sample {
                q: rows(&sample.q, tokens.clone()),
                k: rows(&sample.k, tokens.clone()),
                v: rows(&sample.v, tokens.clone()),
                decay: rows(&sample.decay, tokens.clone()),
                beta: rows(&sample.beta, tokens),
                mu: mu.to_vec(),
                nu: nu.to_vec(),
            };
            let earlier = part(0..first, &sample.mu, &sample.nu);
            let between = attention.run(&shape(first), earlier.inputs_with_state()).unwrap();
            let later = part(first..TOKENS, &between.mu, &between.nu);
            let of_later = rows(&o, first..TOKENS);
            let given = OutputGradients::new(&of_later).with_final_state(&mu, &nu);
            let of_later = attention
                .backward(&shape(TOKENS - first), later.inputs_with_state(), given)
                .unwrap();
            let of_earlier = rows(&o, 0..first);
            let given =
                OutputGradients::new(&of_earlier).with_final_state(&of_later.mu, &of_later.nu);
            let of_earlier =
                attention.backward(&shape(first), earlier.inputs_with_state(), given).unwrap();
            for (found, later, expected) in [
                (of_earlier.q, of_later.q, &whole.q),
                (of_earlier.k, of_later.k, &whole.k),
                (of_earlier.v, of_later.v, &whole.v),
                (of_earlier.decay, of_later.decay, &whole.decay),
                (of_earlier.beta, of_later.beta, &whole.beta),
            ] {
                assert_slices_near(&[found, later].concat(), expected);
            }
            assert_slices_near(&of_earlier.mu, &whole.mu);
            assert_slices_near(&of_earlier.nu, &whole.nu);
        }
    }
}

/// A decay of -inf lets no gradient through, not a bit of it, wherever in a block it is.
#[test]
fn what_is_forgotten_has_no_gradient() {
    let shape = Shape::new(1, 100, 2);
    for config in configs_of_blocks(12, 9) {
        if config.update_rule.decay().is_none() {
            continue;
        }
        for forgets in [1, 31, 32, 50] {
            let mut sample = Sample::new(&config, &shape, 0.5);
            sample.decay[2 * forgets..2 * forgets + 2].fill(f32::NEG_INFINITY);
            let lens = shape.lens(&config).unwrap();
            let mut o = vec![0.7; lens.o as usize];
            o[..forgets * 2 * 9].fill(0.0);
            let (mu, nu) = (vec![0.3; lens.mu as usize], vec![0.4; lens.nu as usize]);
            let given = OutputGradients::new(&o).with_final_state(&mu, &nu);
            let attention = CpuAttention::new(config.clone()).unwrap();
            let found = attention.backward(&shape, sample.inputs_with_state(), given).unwrap();
            for (name, gradient, rows) in [
                ("q", &found.q, forgets * 2 * 12),
                ("k", &found.k, forgets * 2 * 12),
                ("v", &found.v, forgets * 2 * 9),
                ("decay", &found.decay, (forgets + 1) * 2),
                ("beta", &found.beta, forgets * 2),
                ("mu", &found.mu, found.mu.len()),
                ("nu", &found.nu, found.nu.len()),
            ] {
                let rows = rows.min(gradient.len());
                let is_zero = gradient[..rows].iter().all(|x| *x == 0.0);
                assert!(is_zero, "{config:?}: {name} before token {forgets}");
                assert!(gradient.iter().all(|x| x.is_finite()), "{config:?}: {name}");
            }
        }
    }
}

/// A gradient that is NaN spoils its own head and sequence only, though heads share memory.
#[test]
fn a_nan_stays_in_its_head() {
    let shape = Shape::new(2, 75, 4);
    for config in configs(12, 9) {
        let sample = Sample::new(&config, &shape, 0.5);
        let attention = CpuAttention::new(config.clone()).unwrap();
        let run = |o: &[f32]| {
            let given = OutputGradients::new(o);
            with_threads(1, || attention.backward(&shape, sample.inputs(), given)).unwrap()
        };
        let mut o: Vec<f32> = (0..2 * 75 * 4 * 9).map(|i| (i as f32 * 0.31).sin()).collect();
        let clean = run(&o);
        // The last tokens of the first sequence's second head.
        for t in [40, 74] {
            o[(t * 4 + 1) * 9 + 3] = f32::NAN;
        }
        let spoilt = run(&o);
        for (clean, spoilt) in [
            (&clean.q, &spoilt.q),
            (&clean.k, &spoilt.k),
            (&clean.v, &spoilt.v),
            (&clean.decay, &spoilt.decay),
            (&clean.beta, &spoilt.beta),
        ] {
            let row = (clean.len() / (2 * 75 * 4)).max(1);
            for (row, (clean, spoilt)) in clean.chunks(row).zip(spoilt.chunks(row)).enumerate() {
                assert!(row < 75 * 4 && row % 4 == 1 || clean == spoilt, "{config:?}: {row}");
            }
        }
        assert!(spoilt.q.iter().any(|x| x.is_nan()));
    }
}

/// The same bits, however many threads there are, and whatever was in the memory.
#[test]
fn threads_change_no_bit() {
    let shape = Shape::new(1, 70, 8).with_key_heads(4).with_value_heads(8);
    for config in configs_of_blocks(12, 9) {
        let sample = Sample::new(&config, &shape, 0.5);
        let o: Vec<f32> = (0..70 * 8 * 9).map(|i| (i as f32 * 0.31).sin()).collect();
        let attention = CpuAttention::new(config.clone()).unwrap();
        let run = |threads: usize| {
            let given = OutputGradients::new(&o);
            with_threads(threads, || attention.backward(&shape, sample.inputs(), given)).unwrap()
        };
        let (one, mut four) = (run(1), run(4));
        for _ in 0..2 {
            for (one, four) in [
                (&one.q, &four.q),
                (&one.k, &four.k),
                (&one.v, &four.v),
                (&one.decay, &four.decay),
                (&one.beta, &four.beta),
                (&one.mu, &four.mu),
            ] {
                assert!(one == four, "{config:?}");
            }
            let given = OutputGradients::new(&o);
            attention.backward_into(&shape, sample.inputs(), given, &mut four).unwrap();
        }
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

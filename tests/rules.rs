//! The update rules in the reference: the definition, the recurrence and the mirror against each
//! other.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod agreement;

use agreement::{assert_the_three_agree, largest};
use approx::{assert_abs_diff_eq, assert_relative_eq};
use linear_attention::reference::{mirror, naive, recurrent};
use linear_attention::update_rule::{
    Beta, BetaActivation, BetaDims, Decay, DecayActivation, DecayDims, UpdateRule,
};
use linear_attention::{Config, Dtype, Error, FeatureMap, Inputs, Normalization, Shape};
use proptest::prelude::*;

/// Two tokens by hand: K = 2, V = 1, a decay of ln 1/2 and a beta of 1/2.
#[test]
fn worked_example() {
    let (q, k, v) = ([1.0, 1.0, 1.0, 2.0], [1.0, 0.0, 1.0, 1.0], [4.0, 6.0]);
    let (decay, beta) = ([0.5f32.ln(); 2], [0.5; 2]);
    let shape = Shape::new(1, 2, 1);
    let inputs = Inputs::new(&q, &k, &v);
    let (a, b) = (Decay::per_head(), Beta::per_head());
    for (rule, inputs, o, mu) in [
        // mu_1 = [4, 0]; mu_2 = [10, 6]
        (UpdateRule::Linear, inputs, [4.0, 22.0], [10.0, 6.0]),
        // mu_2 = [2, 0] + [6, 6]
        (UpdateRule::Gated(a), inputs.with_decay(&decay), [4.0, 20.0], [8.0, 6.0]),
        // u_1 = 2; u_2 = (6 - 2) / 2 = 2; mu_2 = [2, 0] + [2, 2]
        (UpdateRule::Delta(b), inputs.with_beta(&beta), [2.0, 8.0], [4.0, 2.0]),
        // u_2 = (6 - 1) / 2 = 2.5; mu_2 = [1, 0] + [2.5, 2.5]
        (
            UpdateRule::GatedDelta(a, b),
            inputs.with_decay(&decay).with_beta(&beta),
            [2.0, 8.5],
            [3.5, 2.5],
        ),
    ] {
        let config = Config::of_rule(2, 1, rule)
            .with_feature_map(FeatureMap::Identity)
            .with_normalization(Normalization::None);
        for out in [naive(&config, &shape, inputs), recurrent(&config, &shape, inputs)] {
            let out = out.unwrap();
            for (found, expected) in out.o.iter().chain(&out.mu).zip(o.iter().chain(&mu)) {
                assert_relative_eq!(*found, *expected, max_relative = 1e-7);
            }
            assert!(out.nu.is_empty());
        }
        let out = mirror(&config, &shape, inputs).unwrap();
        for (found, expected) in out.o.iter().zip(&o) {
            assert_relative_eq!(f64::from(*found), *expected, max_relative = 1e-6);
        }
    }
}

/// A decay of -inf forgets everything, exactly, and so does one whose exponential vanishes.
#[test]
fn minus_infinity_forgets() {
    let rule = UpdateRule::Gated(Decay::per_head());
    let config = Config::of_rule(1, 1, rule);
    for forget in [f32::NEG_INFINITY, -1e30, -200.0] {
        let decay = [-0.1, forget, 0.0];
        let inputs = Inputs::new(&[1.0; 3], &[1.0; 3], &[1e30, 3.0, 4.0]).with_decay(&decay);
        let shape = Shape::new(1, 3, 1);
        assert_eq!(recurrent(&config, &shape, inputs).unwrap().o, [f64::from(1e30f32), 3.0, 7.0]);
        assert_eq!(mirror(&config, &shape, inputs).unwrap().o, [1e30, 3.0, 7.0]);
    }
}

/// A decay near 0 has more digits than its exponential: 20,000 of them must not add up the loss.
#[test]
fn slow_decays_keep_their_digits() {
    let t = 20_000;
    let config = Config::of_rule(1, 1, UpdateRule::Gated(Decay::constant()));
    let k = vec![1.0; t];
    let v: Vec<f32> = (0..t).map(|i| 0.5 + (i * 7919 % 1000) as f32 * 1e-3).collect();
    for decay in [-1e-4, -3.3e-5, -0.01, -1.0] {
        let decays = [decay];
        let inputs = Inputs::new(&k, &k, &v).with_decay(&decays);
        let shape = Shape::new(1, t as u32, 1);
        let truth = recurrent(&config, &shape, inputs).unwrap();
        let found = mirror(&config, &shape, inputs).unwrap();
        let worst = truth.o.iter().zip(&found.o).map(|(x, y)| (f64::from(*y) / x - 1.0).abs());
        assert!(worst.fold(0.0, f64::max) < 2e-5, "{decay}");
    }
}

#[test]
fn refusals() {
    let shape = Shape::new(1, 2, 1);
    let x = [1.0; 4];
    let inputs = Inputs::new(&x, &x, &x[..2]);
    let decay = UpdateRule::Gated(Decay::per_head().with_refuses_positive(true));
    let check = |rule, inputs: Inputs<'_>| {
        let config = Config::of_rule(2, 1, rule)
            .with_feature_map(FeatureMap::Identity)
            .with_normalization(Normalization::None);
        recurrent(&config, &shape, inputs).unwrap_err().to_string()
    };
    assert_eq!(check(decay, inputs), "update rule gated: decay must be given, found none");
    let both = inputs.with_decay(&[0.0; 2]).with_beta(&[1.0; 2]);
    assert_eq!(check(decay, both), "update rule gated: beta must be absent, found some");
    assert_eq!(
        check(UpdateRule::Linear, inputs.with_decay(&[0.0; 2])),
        "update rule linear: decay must be absent, found some"
    );
    assert_eq!(check(decay, inputs.with_decay(&[0.0; 3])), "decay must have 2 elements, found 3");
    assert_eq!(
        check(decay, inputs.with_decay(&[0.0, f32::NAN])),
        "decay must be finite or -inf, found NaN at token 1, head 0"
    );
    assert_eq!(
        check(decay, inputs.with_decay(&[0.5, 0.0])),
        "decay must be at most 0, found 0.5 at token 0, head 0"
    );
    assert_eq!(
        check(UpdateRule::Delta(Beta::shared()), inputs.with_beta(&[f32::INFINITY, 1.0])),
        "beta must be finite, found inf at token 0, head 0"
    );
    let softplus = Decay::per_head().with_activation(DecayActivation::Softplus);
    assert_eq!(
        check(UpdateRule::Gated(softplus), inputs.with_decay(&[0.0; 2])),
        "update rule gated: gate_weights must be given, found none"
    );

    let delta = UpdateRule::Delta(Beta::per_head());
    let normalized = Config::of_rule(2, 1, delta).with_normalization(Normalization::default());
    assert_eq!(
        normalized.validate().unwrap_err().to_string(),
        "update rule delta: normalization must be None, found Sum { eps: 0.0 }"
    );
    let wide = Config::of_rule(64, 1, delta).with_feature_map(FeatureMap::T2r { features: 300 });
    assert_eq!(
        wide.validate().unwrap_err().to_string(),
        "update rule delta: features must be at most 256, found 300"
    );
    let half = Config::of_rule(2, 1, UpdateRule::Gated(Decay::per_head().with_dtype(Dtype::F16)));
    assert_eq!(
        half.validate().unwrap_err().to_string(),
        "update rule gated: the dtype of decay must be f32, found F16"
    );
    half.with_dtype(Dtype::F16).validate().unwrap();
    let lower_bound = DecayActivation::Sigmoid { lower_bound: 1.0 };
    let bounded = UpdateRule::Gated(Decay::per_row().with_activation(lower_bound));
    assert!(Config::of_rule(2, 1, bounded).validate().is_err());
    assert!(matches!(
        recurrent(&Config::new(2, 1), &shape, inputs.with_beta(&x[..2])),
        Err(Error::RuleTensor { tensor: "beta", .. })
    ));
}

#[derive(Clone, Debug)]
struct Problem {
    config: Config,
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
    gate_weights: Vec<f32>,
    mu: Vec<f32>,
    nu: Vec<f32>,
}

fn rules() -> impl Strategy<Value = UpdateRule> {
    let dims = prop::sample::select(vec![Decay::constant(), Decay::per_head(), Decay::per_row()]);
    let activation = prop::sample::select(vec![
        DecayActivation::None,
        DecayActivation::None,
        DecayActivation::Softplus,
        DecayActivation::Sigmoid { lower_bound: -5.0 },
    ]);
    let beta = (prop::sample::select(vec![Beta::per_head(), Beta::shared()]), any::<bool>());
    let of = |((decay, activation), (beta, is_sigmoid)): ((Decay, _), (Beta, bool))| {
        let decay = decay.with_activation(activation);
        let beta = match is_sigmoid {
            true => beta.with_activation(BetaActivation::Sigmoid),
            false => beta,
        };
        [
            UpdateRule::Linear,
            UpdateRule::Gated(decay),
            UpdateRule::Delta(beta),
            UpdateRule::GatedDelta(decay, beta),
        ]
    };
    ((dims, activation), beta)
        .prop_map(of)
        .prop_flat_map(|rules| prop::sample::select(rules.to_vec()))
}

fn problems() -> impl Strategy<Value = Problem> {
    let heads = prop::sample::select(vec![[1, 1, 1], [2, 2, 2], [4, 2, 2], [2, 2, 4], [2, 1, 4]]);
    let lengths = prop::collection::vec(0u32..9, 1..4);
    (rules(), heads, lengths, 1u32..7, 1u32..6, any::<bool>()).prop_flat_map(
        |(rule, [h, g, e], lengths, key_dim, value_dim, normalizes)| {
            let mut config = Config::of_rule(key_dim, value_dim, rule);
            if rule.beta().is_some() {
                config.l2_norm = true;
            } else if normalizes {
                config.feature_map = FeatureMap::Elu;
                config.normalization = Normalization::default();
            }
            let shape = Shape::packed(&lengths, h).with_key_heads(g).with_value_heads(e);
            let lens = shape.lens(&config).unwrap();
            let values = |n: u64| prop::collection::vec(-2f32..2.0, n as usize);
            let non_negative = |n: u64| prop::collection::vec(0f32..2.0, n as usize);
            let needs_activation = rule.needs_gate_weights();
            let decay = prop::collection::vec(
                prop_oneof![8 => -3f32..0.0, 1 => -400f32..-100.0, 1 => Just(0.0)],
                lens.decay as usize,
            );
            let vectors = (
                [values(lens.q), values(lens.k), values(lens.v)],
                decay,
                prop::collection::vec(0f32..1.0, lens.beta as usize),
                prop::collection::vec(-1f32..1.0, lens.gate_weights as usize),
                values(lens.mu),
                non_negative(lens.nu),
            );
            vectors.prop_map(move |([q, k, v], mut decay, beta, gate_weights, mu, nu)| {
                if needs_activation {
                    decay.iter_mut().for_each(|x| *x = x.max(-3.0) + 1.5);
                }
                let (config, shape) = (config.clone(), shape.clone());
                Problem { config, shape, q, k, v, decay, beta, gate_weights, mu, nu }
            })
        },
    )
}

impl Problem {
    fn inputs(&self) -> Inputs<'_> {
        let mut inputs =
            Inputs::new(&self.q, &self.k, &self.v).with_initial_state(&self.mu, &self.nu);
        let rule = self.config.update_rule;
        if rule.decay().is_some() {
            inputs = inputs.with_decay(&self.decay);
        }
        if rule.beta().is_some() {
            inputs = inputs.with_beta(&self.beta);
        }
        if rule.needs_gate_weights() {
            let (a_log, dt_bias) = self.gate_weights.split_at(self.shape.value_heads as usize);
            inputs = inputs.with_gate_weights(a_log, dt_bias);
        }
        inputs
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_three_agree(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        assert_the_three_agree(config, shape, problem.inputs());
    }

    /// Two calls, the second from the state that the first ends with, are one call.
    #[test]
    fn a_cut_changes_nothing(problem in problems(), at in 0.0..1.0) {
        let Problem { config, shape, .. } = &problem;
        let len = shape.seq_len;
        let one = Shape::new(1, len, shape.heads)
            .with_key_heads(shape.key_heads)
            .with_value_heads(shape.value_heads);
        let state_len = |x: &[f32]| x.len() / shape.sequences() as usize;
        let (mu, nu) = (&problem.mu[..state_len(&problem.mu)], &problem.nu[..state_len(&problem.nu)]);
        let inputs = problem.inputs().with_initial_state(mu, nu);
        let whole = recurrent(config, &one, inputs).unwrap();
        let cut = (f64::from(len) * at) as usize;
        let part = |from: usize, to: usize, mu: &[f32], nu: &[f32]| {
            let per_token = |x: &[f32]| x.len() / (len as usize).max(1);
            let rows = |x: &[f32]| x[from * per_token(x)..to * per_token(x)].to_vec();
            let [q, k, v] = [&problem.q, &problem.k, &problem.v].map(|x| rows(x));
            let is_constant = config.update_rule.decay().is_some_and(|d| d.dims == DecayDims::Constant);
            let decay = if is_constant { problem.decay.clone() } else { rows(&problem.decay) };
            let beta = rows(&problem.beta);
            let mut inputs = problem.inputs();
            (inputs.q, inputs.k, inputs.v) = (&q, &k, &v);
            inputs.decay = inputs.decay.map(|_| &decay[..]);
            inputs.beta = inputs.beta.map(|_| &beta[..]);
            let mut shape = one.clone();
            shape.seq_len = (to - from) as u32;
            recurrent(config, &shape, inputs.with_initial_state(mu, nu)).unwrap()
        };
        let first = part(0, cut, mu, nu);
        let to_f32 = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        let second = part(cut, len as usize, &to_f32(&first.mu), &to_f32(&first.nu));
        let o = [first.o, second.o].concat();
        for (found, expected) in [(&o, &whole.o), (&second.mu, &whole.mu), (&second.nu, &whole.nu)] {
            for (x, y) in found.iter().zip(expected) {
                assert_abs_diff_eq!(x, y, epsilon = 1e-5 * largest(expected));
            }
        }
    }
}

#[test]
fn shared_betas_are_those_of_all_heads() {
    let shape = Shape::new(1, 3, 2);
    let x: Vec<f32> = (0..12).map(|i| (i as f32 * 0.7).sin()).collect();
    let of = |dims: Beta, beta: &[f32]| {
        let config = Config::of_rule(2, 2, UpdateRule::Delta(dims)).with_l2_norm(true);
        recurrent(&config, &shape, Inputs::new(&x, &x, &x).with_beta(beta)).unwrap()
    };
    assert_eq!(Beta::shared().dims, BetaDims::Shared);
    assert_eq!(
        of(Beta::shared(), &[0.25, 0.5, 1.0]),
        of(Beta::per_head(), &[0.25, 0.25, 0.5, 0.5, 1.0, 1.0])
    );
}

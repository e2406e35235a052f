//! The three references against each other, a worked example, and properties.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use approx::{assert_abs_diff_eq, assert_relative_eq};
use linear_attention::feature_map::Weights;
use linear_attention::reference::{chunked, naive, recurrent};
use linear_attention::{Config, Error, FeatureMap, Inputs, Normalization, Shape};
use proptest::prelude::*;

/// docs/algorithm.md, "A worked example": relu, K = 2, V = 1, T = 3.
#[test]
fn worked_example() {
    let mut config = Config::new(2, 1);
    config.feature_map = FeatureMap::Relu;
    let q = [1.0, 2.0, 3.0, -1.0, 2.0, 1.0];
    let k = [1.0, -2.0, 2.0, 1.0, -1.0, 3.0];
    let v = [1.0, 10.0, -4.0];
    let shape = Shape::new(1, 3, 1);
    let inputs = Inputs::new(&q, &k, &v);
    for (normalization, o) in [
        (Normalization::None, [1.0, 63.0, 40.0]),
        (Normalization::Sum { eps: 0.0 }, [1.0, 7.0, 4.0]),
    ] {
        config.normalization = normalization;
        for out in
            [naive(&config, &shape, inputs).unwrap(), recurrent(&config, &shape, inputs).unwrap()]
        {
            assert_eq!(out.o, o);
            assert_eq!(out.mu, [21.0, -2.0]);
            assert_eq!(out.nu, [3.0, 4.0]);
        }
        assert_eq!(chunked(&config, &shape, inputs).unwrap().o, o.map(|o| o as f32));
    }
}

#[test]
fn elu_plus_one_does_not_cancel() {
    let mut config = Config::new(1, 1);
    config.normalization = Normalization::None;
    // elu(-20) + 1 in f32 is 0; exp(-20) is not.
    let out = chunked(&config, &Shape::new(1, 1, 1), Inputs::new(&[0.0], &[-20.0], &[1.0]));
    assert_relative_eq!(out.unwrap().o[0], (-20.0f32).exp(), max_relative = 1e-6);
}

/// The rounding error of o, mu and nu must not grow with T: all-positive keys, where a plain
/// running sum does worst.
#[test]
fn error_does_not_grow_with_t() {
    let mut config = Config::new(2, 1);
    config.feature_map = FeatureMap::Relu;
    let errors = |t: usize| {
        let k: Vec<f32> = (0..2 * t).map(|i| 0.1 + (i * 7919 % 1000) as f32 * 1e-3).collect();
        let v: Vec<f32> = (0..t).map(|i| 0.2 + (i * 104_729 % 1000) as f32 * 1e-3).collect();
        let shape = Shape::new(1, t as u32, 1);
        let inputs = Inputs::new(&k, &k, &v);
        let truth = recurrent(&config, &shape, inputs).unwrap();
        let found = chunked(&config, &shape, inputs).unwrap();
        let worst = |truth: &[f64], found: &[f32]| {
            let errors = truth.iter().zip(found).map(|(x, y)| (f64::from(*y) / x - 1.0).abs());
            errors.fold(0.0, f64::max)
        };
        [worst(&truth.o, &found.o), worst(&truth.mu, &found.mu), worst(&truth.nu, &found.nu)]
    };
    let (short, long) = (errors(1 << 12), errors(1 << 20));
    for (tensor, (short, long)) in ["o", "mu", "nu"].iter().zip(short.iter().zip(long)) {
        // Below a few ulp, luck decides.
        let bound = 4.0 * short.max(2.5e-7);
        assert!(long <= bound, "{tensor}: {short:e} at 2^12, {long:e} at 2^20");
    }
}

#[test]
fn refuses_what_no_call_accepts() {
    let config = Config::new(2, 2);
    let shape = Shape::new(1, 2, 1);
    let x = [1.0; 4];
    let short = naive(&config, &shape, Inputs::new(&x[..3], &x, &x));
    assert_eq!(short.unwrap_err(), Error::Len { tensor: "q", required: 4, actual: 3 });
    let infinite = [1.0, f32::INFINITY, 1.0, 1.0];
    let refused = recurrent(&config, &shape, Inputs::new(&x, &infinite, &x)).unwrap_err();
    assert_eq!(refused.to_string(), "k must be finite, found inf at element 1");
}

#[derive(Clone, Debug)]
struct Problem {
    config: Config,
    shape: Shape,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    mu: Vec<f32>,
    nu: Vec<f32>,
    weights: Option<Weights>,
}

fn problems() -> impl Strategy<Value = Problem> {
    let equal = (1u32..3, 1u32..40).prop_map(|(b, t)| Shape::new(b, t, 1));
    let packed = prop::collection::vec(0u32..20, 1..5)
        .prop_filter("no token", |lengths| lengths.iter().any(|len| *len > 0))
        .prop_map(|lengths| Shape::packed(&lengths, 1));
    let shapes = prop_oneof![equal, packed];
    let sizes = (shapes, 1u32..3, 1u32..4, 1u32..9, 1u32..9);
    let maps = prop::sample::select(
        [
            "identity",
            "relu",
            "relu-squared",
            "elu",
            "exp",
            "silu",
            "sigmoid",
            "softmax",
            "hedgehog",
            "hedgehog-joint",
            "taylor",
            "t2r:6",
            "product:5",
            "favor:7",
            "favor-hyperbolic:8",
            "fourier:8",
            "dpfp:1",
        ]
        .map(|name| name.parse::<FeatureMap>().unwrap())
        .to_vec(),
    );
    (sizes, maps, any::<[bool; 2]>(), 0.1f32..2.0).prop_flat_map(
        |((mut shape, g, group, k, v), map, [normalize, l2_norm], scale)| {
            let mut config = Config::new(k, v);
            config.feature_map = map;
            config.scale = scale;
            config.l2_norm = l2_norm;
            // Features of taylor can be negative, with which a state of any kind could cancel.
            if !normalize || !config.is_non_negative() || config.feature_map == FeatureMap::Taylor {
                config.normalization = Normalization::None;
            }
            let weights = Weights::draw(&config, 1).unwrap();
            (shape.heads, shape.kv_heads) = (g * group, g);
            let lens = shape.lens(&config).unwrap();
            let tensor = |len: u64, low: f32| prop::collection::vec(low..2.0f32, len as usize);
            (
                tensor(lens.q, -2.0),
                tensor(lens.k, -2.0),
                tensor(lens.v, -2.0),
                tensor(lens.mu, -2.0),
                tensor(lens.nu, 0.1),
            )
                .prop_map(move |(q, k, v, mu, nu)| Problem {
                    config: config.clone(),
                    weights: weights.clone(),
                    shape: shape.clone(),
                    q,
                    k,
                    v,
                    mu,
                    nu,
                })
        },
    )
}

impl Problem {
    fn inputs(&self) -> Inputs<'_> {
        self.inputs_from_zero().with_initial(&self.mu, &self.nu)
    }

    fn inputs_from_zero(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v);
        inputs.weights = self.weights.as_ref();
        inputs
    }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(1e-3, |m: f64, x| m.max(x.abs()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_three_agree(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        let a = naive(config, shape, problem.inputs()).unwrap();
        let b = recurrent(config, shape, problem.inputs()).unwrap();
        let c = chunked(config, shape, problem.inputs()).unwrap();
        for (a, b, c) in [(&a.o, &b.o, &c.o), (&a.mu, &b.mu, &c.mu), (&a.nu, &b.nu, &c.nu)] {
            for ((a_i, b_i), c_i) in a.iter().zip(b).zip(c) {
                assert_abs_diff_eq!(a_i, b_i, epsilon = 1e-11 * largest(a));
                assert_abs_diff_eq!(*a_i, f64::from(*c_i), epsilon = 2e-5 * largest(a));
            }
        }
    }

    #[test]
    fn sequences_are_apart(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        let all = naive(config, shape, problem.inputs()).unwrap();
        let n = shape.sequences() as usize;
        let (g, k, v) = (shape.kv_heads, config.key_dim, config.value_dim);
        let rows = |x: &[f32], tokens: &std::ops::Range<usize>, row: u32| {
            x[tokens.start * row as usize..tokens.end * row as usize].to_vec()
        };
        let (mut o, mut mu, mut nu) = (Vec::new(), Vec::new(), Vec::new());
        for (i, tokens) in shape.token_ranges().unwrap().iter().enumerate() {
            let state = |x: &[f32]| x.chunks(x.len() / n).nth(i).unwrap().to_vec();
            let (mu_0, nu_0) = (state(&problem.mu), state(&problem.nu));
            if tokens.is_empty() {
                mu.extend(mu_0.iter().map(|x| f64::from(*x)));
                nu.extend(nu_0.iter().map(|x| f64::from(*x)));
                continue;
            }
            let q_i = rows(&problem.q, tokens, shape.heads * k);
            let k_i = rows(&problem.k, tokens, g * k);
            let v_i = rows(&problem.v, tokens, g * v);
            let one = Shape::new(1, tokens.len() as u32, shape.heads).with_kv_heads(g);
            let inputs = Inputs { weights: problem.weights.as_ref(), ..Inputs::new(&q_i, &k_i, &v_i) };
            let inputs = inputs.with_initial(&mu_0, &nu_0);
            let alone = naive(config, &one, inputs).unwrap();
            o.extend(alone.o);
            mu.extend(alone.mu);
            nu.extend(alone.nu);
        }
        prop_assert_eq!(all.o, o);
        prop_assert_eq!(all.mu, mu);
        prop_assert_eq!(all.nu, nu);
    }

    #[test]
    fn scaling_v_scales_o(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        let inputs = problem.inputs_from_zero();
        let once = recurrent(config, shape, inputs).unwrap();
        let twice: Vec<f32> = problem.v.iter().map(|v| 2.0 * v).collect();
        let twice = recurrent(config, shape, Inputs { v: &twice, ..inputs }).unwrap();
        for (a, b) in once.o.iter().zip(&twice.o) {
            assert_abs_diff_eq!(2.0 * a, b, epsilon = 1e-12 * largest(&once.o));
        }
    }

    #[test]
    fn output_lies_within_the_values_so_far(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        prop_assume!(config.normalization != Normalization::None);
        let inputs = problem.inputs_from_zero();
        let out = recurrent(config, shape, inputs).unwrap();
        // eps and rows without weight pull towards 0, so 0 counts as a value.
        let (low, high) = problem.v.iter().fold((0.0f32, 0.0f32), |(l, h), v| (l.min(*v), h.max(*v)));
        prop_assert!(out.o.iter().all(|o| *o >= f64::from(low) - 1e-9 && *o <= f64::from(high) + 1e-9));
    }

    #[test]
    fn grouped_heads_are_repeated_heads(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        let group = (shape.heads / shape.kv_heads) as usize;
        let inputs = problem.inputs_from_zero();
        let grouped = recurrent(config, shape, inputs).unwrap();
        let repeat = |x: &[f32], width: u32| -> Vec<f32> {
            x.chunks(width as usize).flat_map(|row| row.repeat(group)).collect()
        };
        let (k, v) = (repeat(&problem.k, config.key_dim), repeat(&problem.v, config.value_dim));
        let all = shape.clone().with_kv_heads(shape.heads);
        let repeated = recurrent(config, &all, Inputs { k: &k, v: &v, ..inputs }).unwrap();
        prop_assert_eq!(grouped.o, repeated.o);
    }
}

//! The three references against each other, a worked example, and properties.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

mod agreement;

use agreement::{assert_the_three_agree, largest};
use approx::{assert_abs_diff_eq, assert_relative_eq};
use linear_attention::feature_map::{Projection, Weights};
use linear_attention::reference::{mirror, naive, recurrent, softmax};
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
            let nu: &[f64] = if config.is_normalized() { &[3.0, 4.0] } else { &[] };
            assert_eq!(out.nu, nu);
        }
        assert_eq!(mirror(&config, &shape, inputs).unwrap().o, o.map(|o| o as f32));
    }
}

#[test]
fn elu_plus_one_does_not_cancel() {
    let config = Config::new(1, 1).with_normalization(Normalization::None);
    // elu(-20) + 1 in f32 is 0; exp(-20) is not.
    let out = mirror(&config, &Shape::new(1, 1, 1), Inputs::new(&[0.0], &[-20.0], &[1.0]));
    assert_relative_eq!(out.unwrap().o[0], (-20.0f32).exp(), max_relative = 1e-6);
}

/// The rounding error of o, mu and nu must not grow with T: all-positive keys, where a plain
/// running sum does worst.
#[test]
fn error_does_not_grow_with_t() {
    let config = Config::new(2, 1).with_feature_map(FeatureMap::Relu);
    let errors = |t: usize| {
        let k: Vec<f32> = (0..2 * t).map(|i| 0.1 + (i * 7919 % 1000) as f32 * 1e-3).collect();
        let v: Vec<f32> = (0..t).map(|i| 0.2 + (i * 104_729 % 1000) as f32 * 1e-3).collect();
        let shape = Shape::new(1, t as u32, 1);
        let inputs = Inputs::new(&k, &k, &v);
        let truth = recurrent(&config, &shape, inputs).unwrap();
        let found = mirror(&config, &shape, inputs).unwrap();
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

/// H, G and E: grouped queries, H > E > G among them, and grouped values, H < E.
fn heads() -> impl Strategy<Value = [u32; 3]> {
    (1u32..3, 1u32..4, 1u32..4, any::<bool>()).prop_map(|(g, key_group, group, queries)| {
        let e = g * key_group;
        match queries {
            true => [e * group, g, e],
            false => [if e.is_multiple_of(group) { e / group } else { e }, g, e],
        }
    })
}

fn problems() -> impl Strategy<Value = Problem> {
    let equal = (1u32..3, 0u32..40).prop_map(|(b, t)| Shape::new(b, t, 1));
    let packed =
        prop::collection::vec(0u32..20, 1..5).prop_map(|lengths| Shape::packed(&lengths, 1));
    let shapes = prop_oneof![equal, packed];
    let sizes = (shapes, heads(), 1u32..9, 1u32..9);
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
        |((mut shape, [h, g, e], k, v), map, [normalize, l2_norm], scale)| {
            let mut config = Config::new(k, v);
            config.feature_map = map;
            config.scale = scale;
            config.l2_norm = l2_norm;
            // Features of taylor can be negative, with which a state of any kind could cancel.
            if !normalize || !config.is_non_negative() || config.feature_map == FeatureMap::Taylor {
                config.normalization = Normalization::None;
            }
            let weights = Weights::sample(&config, 1).unwrap();
            shape.heads = h;
            shape = shape.with_key_heads(g).with_value_heads(e);
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
        self.inputs_from_zero().with_initial_state(&self.mu, &self.nu)
    }

    fn inputs_from_zero(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v);
        inputs.weights = self.weights.as_ref();
        inputs
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_three_agree(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        assert_the_three_agree(config, shape, problem.inputs());
    }

    #[test]
    fn sequences_are_apart(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        let all = naive(config, shape, problem.inputs()).unwrap();
        let n = shape.sequences() as usize;
        let (g, e) = (shape.key_heads, shape.value_heads);
        let (k, v) = (config.key_dim, config.value_dim);
        let rows = |x: &[f32], tokens: &std::ops::Range<usize>, row: u32| {
            x[tokens.start * row as usize..tokens.end * row as usize].to_vec()
        };
        let (mut o, mut mu, mut nu) = (Vec::new(), Vec::new(), Vec::new());
        for (i, tokens) in shape.token_ranges().unwrap().iter().enumerate() {
            let state = |x: &[f32]| x[x.len() / n * i..x.len() / n * (i + 1)].to_vec();
            let (mu_0, nu_0) = (state(&problem.mu), state(&problem.nu));
            if tokens.is_empty() {
                mu.extend(mu_0.iter().map(|x| f64::from(*x)));
                nu.extend(nu_0.iter().map(|x| f64::from(*x)));
                continue;
            }
            let q_i = rows(&problem.q, tokens, shape.heads * k);
            let k_i = rows(&problem.k, tokens, g * k);
            let v_i = rows(&problem.v, tokens, e * v);
            let one = Shape::new(1, tokens.len() as u32, shape.heads);
            let one = one.with_key_heads(g).with_value_heads(e);
            let inputs = Inputs::new(&q_i, &k_i, &v_i).with_weights(problem.weights.as_ref());
            let inputs = inputs.with_initial_state(&mu_0, &nu_0);
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
        let mut inputs = inputs;
        inputs.v = &twice;
        let twice = recurrent(config, shape, inputs).unwrap();
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

    /// Repeated by hand, so that every head of o has a query, a key and a value head of its own.
    #[test]
    fn grouped_heads_are_repeated_heads(problem in problems()) {
        let Problem { config, shape, .. } = &problem;
        let inputs = problem.inputs();
        let repeat = |x: &[f32], width: u32, heads: u32| -> Vec<f32> {
            let times = (shape.output_heads() / heads) as usize;
            x.chunks(width as usize).flat_map(|row| row.repeat(times)).collect()
        };
        let (k, v) = (config.key_dim, config.value_dim);
        let f = config.features();
        let [q, k, v, mu, nu] = [
            repeat(&problem.q, k, shape.heads),
            repeat(&problem.k, k, shape.key_heads),
            repeat(&problem.v, v, shape.value_heads),
            repeat(&problem.mu, f * v, shape.value_heads),
            repeat(&problem.nu, f, shape.value_heads),
        ];
        let mut all = shape.clone().with_kv_heads(shape.output_heads());
        all.heads = shape.output_heads();
        let mut repeated = Inputs::new(&q, &k, &v).with_initial_state(&mu, &nu);
        repeated.weights = inputs.weights;
        for run in [naive, recurrent] {
            let grouped = run(config, shape, inputs).unwrap();
            let repeated = run(config, &all, repeated).unwrap();
            prop_assert_eq!(&grouped.o, &repeated.o);
            // A state is that of any of the heads that share it.
            let group = (shape.output_heads() / shape.value_heads) as usize;
            let states = |x: &[f64], len: usize| -> Vec<f64> {
                x.chunks(len).step_by(group).flatten().copied().collect()
            };
            let mu_len = (f * config.value_dim) as usize;
            prop_assert_eq!(&grouped.mu, &states(&repeated.mu, mu_len));
            prop_assert_eq!(&grouped.nu, &states(&repeated.nu, f as usize));
        }
        let grouped = mirror(config, shape, inputs).unwrap();
        let repeated = mirror(config, &all, repeated).unwrap();
        let exact = recurrent(config, shape, inputs).unwrap();
        for (a, b) in grouped.o.iter().zip(&repeated.o) {
            assert_abs_diff_eq!(f64::from(*a), f64::from(*b), epsilon = 4e-5 * largest(&exact.o));
        }
    }
}

/// H, G and E by name: grouped values, a grouped key beside whole queries, and both.
#[test]
fn heads_are_grouped_as_neighbours() {
    let config = Config::new(1, 1)
        .with_feature_map(FeatureMap::Identity)
        .with_normalization(Normalization::None);
    // One token: o = q k v.
    for ([h, g, e], o) in [
        // Value head e is read by query head e / 2.
        ([2, 2, 4], vec![2.0 * 10.0, 2.0 * 10.0 * 2.0, 3.0 * 11.0 * 3.0, 3.0 * 11.0 * 4.0]),
        // As many queries as values, and keys shared.
        ([4, 2, 4], vec![2.0 * 10.0, 3.0 * 10.0 * 2.0, 4.0 * 11.0 * 3.0, 5.0 * 11.0 * 4.0]),
        // Query head h reads value head h / 2, which reads key head e / 2.
        ([4, 1, 2], vec![2.0 * 10.0, 3.0 * 10.0, 4.0 * 10.0 * 2.0, 5.0 * 10.0 * 2.0]),
        // Fewer queries than keys.
        ([1, 2, 2], vec![2.0 * 10.0, 2.0 * 11.0 * 2.0]),
    ] {
        let shape = Shape::new(1, 1, h).with_key_heads(g).with_value_heads(e);
        let range = |begin: f32, len: u32| (0..len).map(|i| begin + i as f32).collect::<Vec<_>>();
        let (q, k, v) = (range(2.0, h), range(10.0, g), range(1.0, e));
        let inputs = Inputs::new(&q, &k, &v);
        assert_eq!(naive(&config, &shape, inputs).unwrap().o, o);
        assert_eq!(recurrent(&config, &shape, inputs).unwrap().o, o);
        let found = mirror(&config, &shape, inputs).unwrap();
        assert_eq!(found.o, o.iter().map(|o| *o as f32).collect::<Vec<_>>());
        assert!(found.nu.is_empty());
        let softmax_o = softmax(&config, &shape, inputs).unwrap();
        let of_values: Vec<f64> =
            (0..h.max(e)).map(|h| f64::from(v[(h / (o.len() as u32 / e)) as usize])).collect();
        assert_eq!(softmax_o, of_values);
    }
    let refused = |h, g, e| {
        let shape = Shape::new(1, 1, h).with_key_heads(g).with_value_heads(e);
        shape.lens(&config).unwrap_err().to_string()
    };
    assert_eq!(refused(4, 3, 4), "key_heads must divide value_heads = 4, found 3");
    assert_eq!(
        refused(6, 1, 4),
        "value_heads must divide heads = 6 or be a multiple of it, found 4"
    );
}

/// Weights of one head each: keys' of key heads, queries' of query heads, and where queries have
/// none those of the key head that they read.
#[test]
fn weights_belong_to_heads() {
    let config = Config::new(1, 1)
        .with_feature_map(FeatureMap::T2r { features: 1 })
        .with_normalization(Normalization::None);
    let projection = |w: &[f32]| Projection::new(w.len() as u32, 1, 1, w, None).unwrap();
    let shape = Shape::new(1, 1, 2).with_key_heads(2).with_value_heads(4);
    let inputs = Inputs::new(&[1.0; 2], &[1.0; 2], &[1.0; 4]);
    let shared = Weights::new(projection(&[2.0, 3.0]));
    let apart = Weights::apart(Some(projection(&[2.0, 3.0])), Some(projection(&[5.0, 7.0])));
    // One query head, read with the weights of both key heads.
    let one = Shape::new(1, 1, 1).with_kv_heads(2);
    let one_inputs = Inputs::new(&[1.0], &[1.0; 2], &[1.0; 2]);
    for (shape, inputs, weights, o) in [
        (&shape, inputs, &shared, vec![4.0, 4.0, 9.0, 9.0]),
        (&shape, inputs, &apart, vec![10.0, 10.0, 21.0, 21.0]),
        (&one, one_inputs, &shared, vec![4.0, 9.0]),
    ] {
        let inputs = inputs.with_weights(weights);
        assert_eq!(naive(&config, shape, inputs).unwrap().o, o);
        assert_eq!(recurrent(&config, shape, inputs).unwrap().o, o);
        let o: Vec<f32> = o.iter().map(|o| *o as f32).collect();
        assert_eq!(mirror(&config, shape, inputs).unwrap().o, o);
    }
}

/// A call without a token leaves the state as it was.
#[test]
fn a_call_without_tokens_returns_its_initial_state() {
    let config = Config::new(2, 3);
    for shape in [Shape::new(2, 0, 1), Shape::packed(&[0, 0], 1)] {
        let (mu, nu) = ([1.5; 12], [2.5; 4]);
        let inputs = Inputs::new(&[], &[], &[]).with_initial_state(&mu, &nu);
        for out in
            [naive(&config, &shape, inputs).unwrap(), recurrent(&config, &shape, inputs).unwrap()]
        {
            assert_eq!((out.o, out.mu, out.nu), (vec![], vec![1.5; 12], vec![2.5; 4]));
        }
        let out = mirror(&config, &shape, inputs).unwrap();
        assert_eq!((out.o, out.mu, out.nu), (vec![], mu.to_vec(), nu.to_vec()));
        let out = mirror(&config, &shape, Inputs::new(&[], &[], &[])).unwrap();
        assert_eq!((out.mu, out.nu), (vec![0.0; 12], vec![0.0; 4]));
    }
}

/// There is no nu where nothing is divided, and a caller who gives one is told so.
#[test]
fn no_nu_where_nothing_is_divided() {
    let config = Config::new(2, 1).with_normalization(Normalization::None);
    let shape = Shape::new(1, 1, 1);
    let lens = shape.lens(&config).unwrap();
    assert_eq!((lens.mu, lens.nu, lens.state), (2, 0, 2));
    let x = [1.0; 2];
    let inputs = Inputs::new(&x, &x, &[1.0]);
    let out = mirror(&config, &shape, inputs.with_initial_state(&[1.0; 2], &[])).unwrap();
    assert!(out.nu.is_empty());
    let refused = mirror(&config, &shape, inputs.with_initial_state(&[1.0; 2], &[1.0; 2]));
    let error = Error::Len { tensor: "initial_nu", required: 0, actual: 2 };
    assert_eq!(refused.unwrap_err(), error);
}

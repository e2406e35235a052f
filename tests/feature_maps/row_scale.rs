//! The row scale of queries: a factor common to a row cancels, and changes nothing else.

use approx::assert_relative_eq;
use linear_attention::feature_map::Weights;
use linear_attention::reference::{key_features, mirror, naive, recurrent};
use linear_attention::{Config, Error, FeatureMap, Inputs, Normalization, Shape};

use crate::{ALL, config_of, named};

/// The normalised form with this eps, asked for by name where a map can be negative.
fn normalized(name: &str, key_dim: u32, eps: f32) -> Config {
    let config = config_of(named(name), key_dim, 1);
    match config.normalization {
        Normalization::None => config.with_normalization(Normalization::SignedSum { eps }),
        _ => config.with_normalization(Normalization::Sum { eps }),
    }
}

/// Keys alike: o is the average of the values so far, however large or small the query is.
#[test]
fn a_factor_of_a_row_cancels() {
    for (name, q, k) in [
        ("relu-squared", 1e10, 1e10),
        ("relu-squared", 1e-20, 1e-10),
        ("relu", 1e38, 1.0),
        ("relu", 1e-38, 1e-3),
        ("identity", -1e38, 1e3),
        ("elu", -60.0, 0.5),
        ("elu", -60.0, -60.0),
        ("elu", -1000.0, 0.5),
        ("elu", 3e38, 0.5),
        ("sigmoid", -1000.0, 0.5),
        ("sigmoid", -1000.0, -80.0),
        ("silu", -1000.0, 0.5),
        ("silu", 1e38, 0.5),
        ("exp", 1000.0, 0.5),
        ("exp", -1000.0, 0.5),
        ("exp", 3e38, 80.0),
        ("favor:8", 1e10, 0.5),
        ("favor:8", -1e3, 0.5),
        ("favor-hyperbolic:8", 1e10, 0.5),
        ("t2r:8", 1e30, 0.5),
        ("taylor", 1e15, 0.5),
        ("dpfp:1", 1e15, 0.5),
    ] {
        let config = normalized(name, 4, 0.0).with_scale(-1e-30);
        let weights = Weights::sample(&config, 1).unwrap();
        let shape = Shape::new(1, 3, 1);
        // No two elements of a row alike.
        let row = |x: f32| [x, 0.875 * x, 0.75 * x, 0.5 * x];
        let (q, k) = (row(q).repeat(3), row(k).repeat(3));
        let inputs = Inputs::new(&q, &k, &[2.0, 4.0, 9.0]).with_weights(weights.as_ref());
        let exact = [
            recurrent(&config, &shape, inputs).unwrap().o,
            naive(&config, &shape, inputs).unwrap().o,
        ];
        let found = mirror(&config, &shape, inputs).unwrap().o;
        for (i, average) in [2.0, 3.0, 5.0].into_iter().enumerate() {
            for exact in &exact {
                assert!((exact[i] - average).abs() < 1e-12, "{name} of {}: {exact:?}", q[0]);
            }
            assert!((f64::from(found[i]) - average).abs() < 1e-5, "{name} of {}: {found:?}", q[0]);
        }
    }
}

/// The formula of the quotient, with features that have no scale.
#[test]
fn eps_is_added_to_the_denominator_of_the_formula() {
    let x = |salt: u32, len: u32| -> Vec<f32> {
        let bits = |i: u32| (i + 31 * salt).wrapping_mul(2_654_435_769) >> 8;
        (0..len).map(|i| bits(i) as f32 / (1 << 22) as f32 - 2.0).collect()
    };
    let (q, k, v) = (x(1, 5 * 6), x(2, 5 * 6), x(3, 5));
    let shape = Shape::new(1, 5, 1);
    for name in ALL {
        for (eps, scale) in [(1e-6, 1.0), (0.5, 0.125), (1e3, 2.0)] {
            let config = normalized(name, 6, eps).with_scale(scale);
            let weights = Weights::sample(&config, 1).unwrap();
            let features = config.features() as usize;
            let phi = |x: &[f32]| key_features(&config, 1, x, weights.as_ref()).unwrap();
            let (queries, keys) = (phi(&q), phi(&k));
            let formula = |i: usize| -> [f64; 2] {
                let query = &queries[i * features..][..features];
                let (mut sum, mut weight) = (0.0, 0.0);
                let mut size = 0.0;
                for j in 0..=i {
                    let key = &keys[j * features..][..features];
                    let dot: f64 = query.iter().zip(key).map(|(q, k)| q * k).sum();
                    size += query.iter().zip(key).map(|(q, k)| (q * k).abs()).sum::<f64>();
                    sum += dot * f64::from(v[j]);
                    weight += dot;
                }
                let (eps, scale) = (f64::from(eps), f64::from(scale));
                let denominator = scale * weight + eps;
                // Rounding is magnified where the denominator nearly crosses zero: by this factor.
                [scale * sum / denominator, (scale * size + eps) / denominator.abs()]
            };
            let inputs = Inputs::new(&q, &k, &v).with_weights(weights.as_ref());
            let exact = recurrent(&config, &shape, inputs).unwrap().o;
            let found = mirror(&config, &shape, inputs).unwrap().o;
            for i in 0..5 {
                let [o, condition] = formula(i);
                assert_relative_eq!(exact[i], o, max_relative = 1e-12 * condition, epsilon = 1e-13);
                let bound = 1e-5 * condition * condition;
                assert!(
                    (f64::from(found[i]) - o).abs() <= bound * o.abs().max(1.0),
                    "{name} {eps}: {} for {o}",
                    found[i]
                );
            }
        }
    }
}

#[test]
fn a_row_without_weight_is_zero() {
    let config = normalized("relu", 2, 0.0);
    let inputs = Inputs::new(&[-1.0, -2.0], &[1.0, 1.0], &[3.0]);
    let shape = Shape::new(1, 1, 1);
    assert_eq!(recurrent(&config, &shape, inputs).unwrap().o, [0.0]);
    assert_eq!(mirror(&config, &shape, inputs).unwrap().o, [0.0]);
}

/// Nor one whose features vanish, where the average would be of nothing: behind a key that has
/// weight it has none, and where no denominator is it is what it is.
#[test]
fn keys_that_vanish_are_refused() {
    for (name, far) in
        [("elu", -100.0), ("exp", -200.0), ("favor:8", 40.0), ("relu-squared", 1e-25)]
    {
        let config = config_of(named(name), 2, 1);
        let weights = Weights::sample(&config, 1).unwrap();
        let shape = Shape::new(1, 2, 1);
        let check = |k: &[f32; 4], config: &Config| {
            let inputs = Inputs::new(&[0.5; 4], k, &[1.0, 1.0]).with_weights(weights.as_ref());
            inputs.check(config, &shape)
        };
        let refused = check(&[far, far, 0.5, 0.5], &config);
        assert_eq!(refused, Err(Error::KeyVanishes { token: 0, head: 0 }), "{name}");
        check(&[0.5, 0.5, far, far], &config).unwrap();
        let plain = config.clone().with_normalization(Normalization::None);
        check(&[far, far, 0.5, 0.5], &plain).unwrap();
        // With a state before it, too.
        let (mu, nu) =
            (vec![1.0; config.features() as usize], vec![1.0; config.features() as usize]);
        let k = [far, far, 0.5, 0.5];
        let inputs = Inputs::new(&[0.5; 4], &k, &[1.0, 1.0]);
        let inputs = inputs.with_weights(weights.as_ref()).with_initial_state(&mu, &nu);
        inputs.check(&config, &shape).unwrap();
    }
    // An exact zero is no weight at all, and the row is 0.
    let config = config_of(FeatureMap::Relu, 2, 1);
    Inputs::new(&[0.5; 4], &[-1.0; 4], &[1.0, 1.0]).check(&config, &Shape::new(1, 2, 1)).unwrap();
}

/// A key has no scale: one whose features leave f32 is refused, by the index of the feature.
#[test]
fn keys_beyond_f32_are_refused() {
    for (name, k) in [("exp", 100.0), ("relu-squared", 1e20), ("taylor", 1e20)] {
        let config = config_of(named(name), 2, 1);
        let shape = Shape::new(1, 2, 1);
        let (q, k) = ([0.5; 4], [0.5, 0.5, k, 0.5]);
        let inputs = Inputs::new(&q, &k, &[1.0, 1.0]);
        for error in [
            mirror(&config, &shape, inputs).unwrap_err(),
            recurrent(&config, &shape, inputs).unwrap_err(),
            inputs.check(&config, &shape).unwrap_err(),
        ] {
            assert!(
                matches!(error, Error::KeyFeature { token: 1, head: 0, .. }),
                "{name}: {error}"
            );
        }
        // The same as a query is none.
        let inputs = Inputs::new(&k, &q, &[1.0, 1.0]);
        inputs.check(&config, &shape).unwrap();
    }
    // Of a projection: w . x = 3e38 * 4 = 1.2e39.
    let config = config_of(FeatureMap::T2r { features: 1 }, 1, 1);
    let weights = linear_attention::feature_map::Projection::new(1, 1, 1, &[3e38], None).unwrap();
    let weights = Weights::new(weights);
    let inputs = Inputs::new(&[1.0], &[4.0], &[1.0]).with_weights(&weights);
    let error = inputs.check(&config, &Shape::new(1, 1, 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "phi(k) must be finite in f32, found inf at token 0, head 0, feature 0"
    );
    let inputs = Inputs::new(&[1.0], &[1.0], &[1.0]).with_weights(&weights);
    inputs.check(&config, &Shape::new(1, 1, 1)).unwrap();
}

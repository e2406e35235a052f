//! Traps that other libraries fell into.

use approx::assert_relative_eq;
use linear_attention::error::ConfigError;
use linear_attention::feature_map::Weights;
use linear_attention::reference::{key_features, mirror, recurrent};
use linear_attention::{Config, Dtype, FeatureMap, Inputs, Normalization, Shape};

use crate::{ALL, config_of, named};

/// A map that may be negative must be asked for by name; others need not.
#[test]
fn signs() {
    let may_be_negative = ["identity", "silu", "product:5", "fourier:8"];
    for name in ALL {
        let config = Config::new(6, 6).with_feature_map(named(name));
        let refused = matches!(config.validate(), Err(ConfigError::SignedSum { .. }));
        assert_eq!(refused, may_be_negative.contains(&name), "{name}");
    }
    // Weights of taylor with itself are never negative; with another map they may be.
    let config = Config::new(2, 1)
        .with_feature_map(FeatureMap::Taylor)
        .with_query_feature_map(FeatureMap::T2r { features: 6 });
    assert!(matches!(config.validate(), Err(ConfigError::SignedSum { .. })));
}

/// f32 of elu(x) + 1 is 44 % off at -17 and zero from -18 where it is formed by a difference.
#[test]
fn elu_does_not_cancel() {
    let x = [-15.0, -17.0, -18.0, -30.0, -80.0];
    let config = Config::new(5, 1);
    let out = mirror(&config, &Shape::new(1, 1, 1), Inputs::new(&x, &x, &[1.0])).unwrap();
    for (nu, x) in out.nu.iter().zip(x) {
        assert_relative_eq!(f64::from(*nu), f64::from(x).exp(), max_relative = 1e-6);
    }
}

/// [relu(x), -relu(x)], as a library had it, makes products negative.
#[test]
fn dpfp_is_never_negative() {
    let config = config_of(FeatureMap::Dpfp { nu: 3 }, 3, 1);
    let found = key_features(&config, 1, &[1.0, -2.0, 3.0], None).unwrap();
    // r = [1, 0, 3, 0, 2, 0]: of two neighbours no two are not zero, of those two apart some are.
    assert_eq!(found[..6], [0.0; 6]);
    assert_eq!(found[6..12], [2.0, 0.0, 3.0, 0.0, 6.0, 0.0]);
    assert!(found.iter().all(|x| *x >= 0.0));
}

/// The two published Hedgehogs are two maps: one sums to 1, the other to 2.
#[test]
fn the_hedgehogs_are_two() {
    let x = [0.3, -1.2, 2.0, 0.0];
    let features = |map| {
        let config = config_of(map, 4, 1);
        let weights = Weights::sample(&config, 0).unwrap();
        key_features(&config, 1, &x, weights.as_ref()).unwrap()
    };
    let (two, joint) = (features(FeatureMap::Hedgehog), features(FeatureMap::HedgehogJoint));
    assert_relative_eq!(two[..4].iter().sum::<f64>(), 1.0, max_relative = 1e-12);
    assert_relative_eq!(two[4..].iter().sum::<f64>(), 1.0, max_relative = 1e-12);
    assert_relative_eq!(joint.iter().sum::<f64>(), 1.0, max_relative = 1e-12);
}

/// No map looks at another row: a later token changes no bit of an output before it.
#[test]
fn no_map_sees_the_future() {
    let tokens = 12;
    let numbers = |salt: u32, len: usize| -> Vec<f32> {
        (0..len as u32)
            .map(|i| {
                ((i + 7 * salt).wrapping_mul(2_654_435_769) >> 8) as f32 / (1 << 23) as f32 - 1.0
            })
            .collect()
    };
    for name in ALL {
        let config = config_of(named(name), 6, 3);
        let weights = Weights::sample(&config, 3).unwrap();
        let shape = Shape::new(1, tokens, 1);
        let run = |k: &[f32]| {
            let (q, v) = (numbers(1, 72), numbers(3, 36));
            let inputs = Inputs::new(&q, k, &v).with_weights(weights.as_ref());
            recurrent(&config, &shape, inputs).unwrap().o
        };
        let (mut k, before) = (numbers(2, 72), run(&numbers(2, 72)));
        // Far larger than all before: a maximum over the sequence would follow it.
        k[60..].fill(30.0);
        let after = run(&k);
        assert_eq!(before[..30], after[..30], "{name}");
        assert_ne!(before[30..], after[30..], "{name}");
    }
}

/// eps enters in f32: in f16 it would be 0, and a row without weight 0 / 0.
#[test]
fn eps_survives_half_precision() {
    for dtype in [Dtype::F16, Dtype::Bf16] {
        let mut config = config_of(FeatureMap::Relu, 2, 1);
        config.dtype = dtype;
        config.normalization = Normalization::Sum { eps: 1e-10 };
        let shape = Shape::new(1, 2, 1);
        let (q, k) = ([-1.0, -1.0, 1e-4, 0.0], [1.0, 1.0, 1e-4, 0.0]);
        let o = mirror(&config, &shape, Inputs::new(&q, &k, &[5.0, 7.0])).unwrap().o;
        assert_eq!(o[0], 0.0);
        assert!((o[1] - 5.0).abs() < 0.01, "{}", o[1]);
    }
}

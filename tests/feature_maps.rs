//! The feature maps: against features that PyTorch computed, the traps that others fell into, and
//! how near random features come to softmax.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use approx::assert_relative_eq;
use linear_attention::reference::{chunked, key_features, recurrent, softmax};
use linear_attention::{
    Config, ConfigError, CustomMap, Dtype, FeatureMap, Inputs, Normalization, Projection, Shape,
    Weights, WeightsError,
};
use safetensors::SafeTensors;

/// x and what `tests/data/feature_maps.py` found for it.
const GOLDEN: &[u8] = include_bytes!("data/feature_maps.safetensors");

fn numbers<T>(file: &SafeTensors<'_>, name: &str, size: usize, of: fn(&[u8]) -> T) -> Vec<T> {
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}"));
    tensor.data().chunks_exact(size).map(of).collect()
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    numbers(file, name, 4, |x| f32::from_le_bytes(x.try_into().unwrap()))
}

fn f64s(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    numbers(file, name, 8, |x| f64::from_le_bytes(x.try_into().unwrap()))
}

fn config_of(map: FeatureMap, key_dim: u32, value_dim: u32) -> Config {
    let mut config = Config::new(key_dim, value_dim);
    config.feature_map = map;
    if !config.is_non_negative() {
        config.normalization = Normalization::None;
    }
    config
}

fn named(name: &str) -> FeatureMap {
    name.parse().unwrap()
}

const ALL: [&str; 18] = [
    "identity",
    "relu",
    "relu-squared",
    "elu",
    "exp",
    "silu",
    "sigmoid",
    "softmax",
    "t2r:5",
    "hedgehog",
    "hedgehog-joint",
    "product:5",
    "favor:7",
    "favor-hyperbolic:8",
    "fourier:8",
    "taylor",
    "dpfp:1",
    "dpfp:3",
];

#[test]
fn features_are_those_of_pytorch() {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let x = f32s(&file, "x");
    for name in ALL {
        for l2_norm in [false, true] {
            let mut config = config_of(named(name), 6, 1);
            config.l2_norm = l2_norm;
            let weights = config.needs_weights().then(|| {
                let [w, b] = ["weight", "bias"].map(|part| f32s(&file, &format!("{name} {part}")));
                let rows = config.feature_map.projections(6);
                Weights::new(Projection::new(1, rows, 6, &w, Some(&b)).unwrap())
            });
            let found = key_features(&config, 1, &x, weights.as_ref()).unwrap();
            let golden = f64s(&file, &if l2_norm { format!("l2 {name}") } else { name.to_owned() });
            assert_eq!(found.len(), golden.len(), "{name}");
            for (found, golden) in found.iter().zip(&golden) {
                // The L2 norm's eps is 1e-6 as f32 has it, PyTorch's as f64 has it; the roots of
                // widths were rounded once.
                assert_relative_eq!(found, golden, max_relative = 1e-7, epsilon = 1e-300);
                if !l2_norm {
                    assert_relative_eq!(found, golden, max_relative = 1e-12, epsilon = 1e-300);
                }
            }
        }
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for name in ALL {
        assert_eq!(named(name).to_string(), name);
    }
    for wrong in ["", "softplus", "favor", "favor:", "favor:0", "favor:x", "elu:3", "dpfp"] {
        let refused = wrong.parse::<FeatureMap>().unwrap_err();
        assert_eq!(refused, ConfigError::UnknownFeatureMap { actual: wrong.to_owned() });
    }
}

#[test]
fn widths_are_those_of_the_formulas() {
    for (name, key_dim, features) in [
        ("elu", 64, 64),
        ("softmax", 64, 64),
        ("hedgehog", 64, 128),
        ("hedgehog-joint", 64, 128),
        ("taylor", 64, 2145),
        ("taylor", 16, 153),
        ("dpfp:3", 64, 384),
        ("favor:4096", 64, 4096),
    ] {
        assert_eq!(named(name).features(key_dim), features, "{name}");
    }
}

#[test]
fn sizes_out_of_range_are_refused() {
    let refused = |name: &str| match config_of(named(name), 8, 8).validate().unwrap_err() {
        ConfigError::FeatureMap { what, actual, .. } => (what, actual),
        other => panic!("{name}: {other}"),
    };
    assert_eq!(refused("fourier:12"), ("features", 12));
    assert_eq!(refused("favor-hyperbolic:4"), ("features", 4));
    assert_eq!(refused("favor:65537"), ("features", 65_537));
    assert_eq!(refused("dpfp:16"), ("nu", 16));
    assert_eq!(refused("dpfp:4294967295"), ("nu", u32::MAX));
    // What a custom map keeps of a row has to fit workgroup memory.
    let wide = CustomMap::new("wide", X_WGSL, 8, |_, _, _| {}).unwrap().with_projections(u32::MAX);
    let wide = FeatureMap::Custom(wide.non_negative().into());
    let error = config_of(wide.clone(), 8, 8).validate().unwrap_err();
    assert!(error.to_string().contains("projections must be at most 256"), "{error}");
    assert!(Projection::draw(&wide, 8, 0).is_err());
    // The two sides must agree on F.
    let mut config = config_of(FeatureMap::Exp, 8, 8);
    config.query_map = Some(FeatureMap::Taylor);
    let error = config.validate().unwrap_err();
    assert!(matches!(error, ConfigError::FeatureMap { actual: 45, .. }), "{error}");
    // One custom map has room among the shaders.
    let own = |name: &str, wgsl: &str| {
        FeatureMap::Custom(
            CustomMap::new(name, wgsl, 8, |_, _, _| {}).unwrap().non_negative().into(),
        )
    };
    let mut config = config_of(own("one", X_WGSL), 8, 8);
    config.query_map = Some(own("one", X_WGSL));
    config.validate().unwrap();
    config.query_map = Some(own("other", X_WGSL));
    let error = config.validate().unwrap_err();
    assert!(matches!(error, ConfigError::TwoCustomMaps { .. }), "{error}");
}

/// What may be negative must be asked for by name; what cannot be need not.
#[test]
fn signs() {
    let may_be_negative = ["identity", "silu", "product:5", "fourier:8"];
    for name in ALL {
        let mut config = Config::new(6, 6);
        config.feature_map = named(name);
        let refused = matches!(config.validate(), Err(ConfigError::SignedSum { .. }));
        assert_eq!(refused, may_be_negative.contains(&name), "{name}");
    }
    // Weights of taylor with itself are never negative; with another map they may be.
    let mut config = Config::new(2, 1);
    config.feature_map = FeatureMap::Taylor;
    config.query_map = Some(FeatureMap::T2r { features: 6 });
    assert!(matches!(config.validate(), Err(ConfigError::SignedSum { .. })));
}

/// f32 of elu(x) + 1 is 44 % off at -17 and zero from -18 where it is formed by a difference.
#[test]
fn elu_does_not_cancel() {
    let x = [-15.0, -17.0, -18.0, -30.0, -80.0];
    let config = Config::new(5, 1);
    let out = chunked(&config, &Shape::new(1, 1, 1), Inputs::new(&x, &x, &[1.0])).unwrap();
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
        let weights = Weights::draw(&config, 0).unwrap();
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
        let weights = Weights::draw(&config, 3).unwrap();
        let shape = Shape::new(1, tokens, 1);
        let run = |k: &[f32]| {
            let (q, v) = (numbers(1, 72), numbers(3, 36));
            let inputs = Inputs { weights: weights.as_ref(), ..Inputs::new(&q, k, &v) };
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
        let o = chunked(&config, &shape, Inputs::new(&q, &k, &[5.0, 7.0])).unwrap().o;
        assert_eq!(o[0], 0.0);
        assert!((o[1] - 5.0).abs() < 0.01, "{}", o[1]);
    }
}

/// Relative error of o, in the root of the mean square.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// Rows of `len`, in directions that no two share.
fn rows_of_length(rows: usize, width: u32, len: f32, seed: u64) -> Vec<f32> {
    let map = FeatureMap::T2r { features: rows as u32 };
    // Normal numbers are what training would begin with.
    let config = config_of(map, width, 1);
    let drawn = Weights::draw(&config, seed).unwrap().unwrap().encode(&config).unwrap();
    let transposed = |row: usize, i: usize| drawn[i * rows.next_multiple_of(4) + row];
    (0..rows)
        .flat_map(|row| {
            let x: Vec<f32> = (0..width as usize).map(|i| transposed(row, i)).collect();
            let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
            x.into_iter().map(move |x| x * len / norm)
        })
        .collect()
}

fn distance_from_softmax(map: FeatureMap, seed: u64) -> f64 {
    let (tokens, width) = (200u32, 32u32);
    // |q| |k| / K^(1/2) = 1 for all pairs.
    let length = (width as f32).powf(0.25);
    let rows = |salt| rows_of_length(tokens as usize, width, length, salt);
    let (q, k, v) = (rows(1), rows(2), rows(3));
    let shape = Shape::new(1, tokens, 1);
    let exact = softmax(&Config::new(width, width), &shape, Inputs::new(&q, &k, &v)).unwrap();
    let mut config = config_of(map, width, width);
    if config.normalization == Normalization::None {
        config.normalization = Normalization::SignedSum { eps: 1e-6 };
    }
    let weights = Weights::draw(&config, seed).unwrap();
    let inputs = Inputs { weights: weights.as_ref(), ..Inputs::new(&q, &k, &v) };
    relative_error(&recurrent(&config, &shape, inputs).unwrap().o, &exact)
}

#[test]
fn favor_comes_within_5_percent_of_softmax() {
    for map in [
        FeatureMap::Favor { features: 4096 },
        FeatureMap::FavorHyperbolic { features: 4096 },
        // The rows are of one length, for which its kernel is softmax's.
        FeatureMap::Fourier { features: 4096 },
    ] {
        let error = distance_from_softmax(map.clone(), 5);
        assert!(error < 0.05, "{map}: {error}");
    }
}

/// Four times the features, half the error: of eight draws each, the root of the mean square.
#[test]
fn favor_converges_as_one_over_the_root_of_f() {
    let error = |features| {
        let squares =
            (0..8).map(|seed| distance_from_softmax(FeatureMap::Favor { features }, seed).powi(2));
        (squares.sum::<f64>() / 8.0).sqrt()
    };
    let errors = [64, 256, 1024].map(error);
    for pair in errors.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((1.6..2.5).contains(&ratio), "{errors:?}");
    }
}

const X_WGSL: &str = "fn phi(row: Row, feature: u32) -> f32 { return x(row, feature); }";

#[test]
fn a_custom_map_that_is_none_is_refused_with_its_line() {
    let refused = |wgsl: &str| match CustomMap::new("own", wgsl, 8, |_, _, _| {}) {
        Err(ConfigError::Phi { feature_map, message }) => {
            assert_eq!(feature_map, "own");
            message
        }
        other => panic!("{wgsl}: {other:?}"),
    };
    for (wgsl, says) in [
        ("", "no such function"),
        ("fn phi(x: f32) -> f32 { return x; }", "another type"),
        ("fn phi(row: Row, feature: u32) -> u32 { return feature; }", "another type"),
        ("fn phi(row: Row, feature: u32) -> f32 {\n    return y;\n}", "own:2"),
        ("fn phi(row: Row, feature: u32) -> f32 { return 1u; }", "own:1"),
        // What is not the map's: other rows, buffers, barriers, entry points.
        ("fn phi(row: Row, feature: u32) -> f32 { return k_quad(0u, 0u).x; }", "k_quad"),
        ("fn phi(row: Row, feature: u32) -> f32 { return row_chunk[0].x; }", "row_chunk"),
        ("fn phi(row: Row, feature: u32) -> f32 { workgroupBarrier(); return 1.0; }", "barrier"),
        (
            "@compute @workgroup_size(1) fn main() {}\nfn phi(row: Row, feature: u32) -> f32 { return 1.0; }",
            "entry point",
        ),
        ("var<private> a: f32;\nfn phi(row: Row, feature: u32) -> f32 { return a; }", "variable"),
        ("override A: f32 = 1.0;\nfn phi(row: Row, feature: u32) -> f32 { return A; }", "override"),
        // A row is a row's name, and no number.
        ("fn phi(row: Row, feature: u32) -> f32 { return x(Row(7u), feature); }", "made"),
        ("fn phi(row: Row, feature: u32) -> f32 { return x(Row(), feature); }", "made"),
        ("fn phi(row: Row, feature: u32) -> f32 { var r: Row; return x(r, feature); }", "made"),
        (
            "fn phi(row: Row, feature: u32) -> f32 { var r: array<Row, 2>; return x(r[1], feature); }",
            "made",
        ),
        (
            "fn unpack() -> f32 { return 1.0; }\nfn phi(row: Row, feature: u32) -> f32 { return unpack(); }",
            "unpack",
        ),
        ("const ROWS = 1.0;\nfn phi(row: Row, feature: u32) -> f32 { return ROWS; }", "ROWS"),
        (
            "struct Strip { a: f32 }\nfn phi(row: Row, feature: u32) -> f32 { return Strip(1.0).a; }",
            "Strip",
        ),
        ("fn phi(row: Row, feature: u32) -> f32 { return f32(row.at); }", "own:1"),
        // A name that the shaders have already.
        (
            "fn outer() -> f32 { return 1.0; }\nfn phi(row: Row, feature: u32) -> f32 { return outer(); }",
            "outer",
        ),
    ] {
        let message = refused(wgsl);
        assert!(message.contains(says), "{wgsl}: expected {says}, found {message}");
    }
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let projection = |heads, rows: u32| {
        let len = (heads * rows * 4) as usize;
        Projection::new(heads, rows, 4, &vec![0.5; len], None).unwrap()
    };
    let check = |config: &Config, weights: &Weights| {
        weights.check(config, &Shape::new(1, 1, 4).with_kv_heads(2))
    };
    let t2r = config_of(FeatureMap::T2r { features: 8 }, 4, 4);
    assert_eq!(check(&t2r, &Weights::new(projection(1, 8))), Ok(()));
    assert_eq!(check(&t2r, &Weights::new(projection(2, 8))), Ok(()));
    assert_eq!(
        check(&t2r, &Weights::apart(Some(projection(2, 8)), Some(projection(4, 8)))),
        Ok(())
    );
    let what = "keys";
    assert_eq!(check(&t2r, &Weights::default()), Err(WeightsError::Missing { what }));
    let (required, actual) = ("1 or 2".to_owned(), 4);
    let error = WeightsError::Heads { what, required, actual };
    assert_eq!(check(&t2r, &Weights::new(projection(4, 8))), Err(error));
    let error = WeightsError::Sizes { what, required: [8, 4], actual: [9, 4] };
    assert_eq!(check(&t2r, &Weights::new(projection(1, 9))), Err(error));
    let elu = Config::new(4, 4);
    assert_eq!(
        check(&elu, &Weights::new(projection(1, 4))),
        Err(WeightsError::Unexpected { what })
    );
    // Queries of another size have no weights in those of keys.
    let mut apart = config_of(FeatureMap::T2r { features: 8 }, 4, 4);
    apart.query_map = Some(FeatureMap::Hedgehog);
    let what = "queries";
    assert_eq!(check(&apart, &Weights::new(projection(1, 8))), Err(WeightsError::Missing { what }));
    let both = Weights::apart(Some(projection(1, 8)), Some(projection(1, 4)));
    assert_eq!(check(&apart, &both), Ok(()));
    let error = Projection::new(1, 2, 2, &[0.0, f32::NAN, 0.0, 0.0], None).unwrap_err();
    let actual = "NaN".to_owned();
    assert_eq!(error, WeightsError::NonFinite { what: "weight", index: 1, actual });
    let error = Projection::new(0, u32::MAX, u32::MAX, &[], None).unwrap_err();
    assert_eq!(error, WeightsError::Zero { what: "heads" });
    assert!(Projection::new(u32::MAX, u32::MAX, u32::MAX, &[], None).is_err());
    // Rows that are not whole, and heads that are none.
    let k = [0.5; 6];
    assert!(key_features(&Config::new(4, 1), 1, &k, None).is_err());
    assert!(key_features(&Config::new(6, 1), 0, &k, None).is_err());
    let error = Projection::new(1, 2, 2, &[0.0; 3], None).unwrap_err();
    assert_eq!(error, WeightsError::Len { what: "weight", required: 4, actual: 3 });
}

//! Sizes, custom maps and weights that cannot be.

use linear_attention::error::{ConfigError, WeightsError};
use linear_attention::feature_map::{CustomMap, Projection, Weights};
use linear_attention::reference::key_features;
use linear_attention::{Config, FeatureMap, Shape};

use crate::{config_of, named};

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
    // The projections that a custom map keeps of a row must fit workgroup memory.
    let wide = CustomMap::new("wide", X_WGSL, 8, |_, _, _| {}).unwrap().with_projections(u32::MAX);
    let wide = FeatureMap::Custom(wide.non_negative().into());
    let error = config_of(wide.clone(), 8, 8).validate().unwrap_err();
    assert!(error.to_string().contains("projections must be at most 256"), "{error}");
    assert!(Projection::sample(&wide, 8, 0).is_err());
    // The two sides must agree on F.
    let mut config = config_of(FeatureMap::Exp, 8, 8);
    config.query_feature_map = Some(FeatureMap::Taylor);
    let error = config.validate().unwrap_err();
    assert!(matches!(error, ConfigError::FeatureMap { actual: 45, .. }), "{error}");
    // One custom map has room among the shaders.
    let own = |name: &str, wgsl: &str| {
        FeatureMap::Custom(
            CustomMap::new(name, wgsl, 8, |_, _, _| {}).unwrap().non_negative().into(),
        )
    };
    let mut config = config_of(own("one", X_WGSL), 8, 8);
    config.query_feature_map = Some(own("one", X_WGSL));
    config.validate().unwrap();
    config.query_feature_map = Some(own("other", X_WGSL));
    let error = config.validate().unwrap_err();
    assert!(matches!(error, ConfigError::TwoCustomMaps { .. }), "{error}");
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
        // A map must not have other rows, buffers, barriers or entry points.
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
            "fn half_value() -> f32 { return 1.0; }\nfn phi(row: Row, feature: u32) -> f32 { return half_value(); }",
            "half_value",
        ),
        ("const ROWS = 1.0;\nfn phi(row: Row, feature: u32) -> f32 { return ROWS; }", "ROWS"),
        (
            "struct Lane { a: f32 }\nfn phi(row: Row, feature: u32) -> f32 { return Lane(1.0).a; }",
            "Lane",
        ),
        ("fn phi(row: Row, feature: u32) -> f32 { return f32(row.at); }", "own:1"),
        // A name that the shaders have already.
        (
            "fn add_outer() -> f32 { return 1.0; }\nfn phi(row: Row, feature: u32) -> f32 { return add_outer(); }",
            "add_outer",
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
    apart.query_feature_map = Some(FeatureMap::Hedgehog);
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

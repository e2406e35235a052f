//! The cases of the feature maps.

use super::case::{Case, SequenceSource};
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::custom::CustomMap;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Shape;

/// Every feature map, alone and with another, where F is one block and where it is several.
pub(super) fn map_cases() -> Vec<Case> {
    use FeatureMap::{
        Dpfp, Exp, Favor, FavorHyperbolic, Fourier, Hedgehog, HedgehogJoint, Product, ReluSquared,
        Sigmoid, Silu, Softmax, T2r, Taylor,
    };
    use SequenceSource::{Host, LengthsAndSlots, Slots};
    let case = |name, map, shape: Shape, [g, k, v]: [u32; 3], initial_state, segments, source| {
        let mut config = Config::new(k, v);
        config.feature_map = map;
        if !config.is_non_negative() {
            config.normalization = Normalization::None;
        }
        Case { initial_state, segments, source, ..Case::new(name, config, shape.with_kv_heads(g)) }
    };
    let (equal, packed) = (Shape::new, Shape::packed);
    let mut cases = vec![
        // name, map, [B, T, H] or lengths and H, [G, K, V], initial state, segments, source
        case("relu-squared", ReluSquared, equal(1, 40, 2), [1, 16, 16], true, 1, Host),
        case("silu", Silu, equal(1, 40, 2), [1, 16, 16], true, 1, Host),
        case("sigmoid", Sigmoid, equal(1, 40, 2), [1, 16, 16], true, 1, Host),
        case("exp", Exp, equal(1, 40, 4), [2, 16, 16], true, 2, Host),
        case("exp-wide", Exp, equal(1, 20, 2), [1, 80, 8], true, 1, Host),
        case("exp-blocks", Exp, equal(1, 20, 2), [2, 272, 8], true, 2, Host),
        case("relu-squared-blocks", ReluSquared, equal(1, 20, 2), [1, 301, 7], true, 2, Host),
        case("sigmoid-blocks", Sigmoid, equal(2, 3, 2), [2, 300, 8], true, 1, Slots),
        case("softmax-wide", Softmax, equal(1, 12, 2), [2, 1024, 16], true, 1, Host),
        case("exp-step", Exp, equal(4, 1, 2), [2, 16, 16], true, 0, Slots),
        case("exp-run-odd", Exp, packed(&[3, 0, 9], 4), [2, 9, 7], true, 0, Host),
        case("softmax", Softmax, equal(2, 40, 4), [2, 16, 16], true, 2, Host),
        case("softmax-odd", Softmax, equal(1, 37, 2), [2, 9, 7], true, 1, Host),
        case("t2r", T2r { features: 24 }, equal(1, 37, 4), [2, 16, 16], true, 2, Host),
        case("t2r-odd", T2r { features: 13 }, equal(1, 37, 2), [1, 9, 7], false, 1, Host),
        case("hedgehog", Hedgehog, equal(1, 37, 4), [2, 16, 16], true, 1, Host),
        case("hedgehog-odd", Hedgehog, packed(&[5, 0, 2], 2), [2, 9, 7], true, 0, Slots),
        case("hedgehog-joint", HedgehogJoint, equal(1, 37, 2), [2, 16, 16], false, 1, Host),
        case("product", Product { features: 20 }, equal(1, 37, 2), [2, 16, 16], true, 1, Host),
        case("product-odd", Product { features: 7 }, equal(1, 37, 2), [2, 9, 7], true, 1, Host),
        case("favor", Favor { features: 64 }, equal(1, 70, 4), [2, 16, 16], true, 3, Host),
        case("favor-step", Favor { features: 32 }, equal(3, 1, 4), [2, 16, 16], true, 0, Slots),
        case(
            "favor-hyperbolic",
            FavorHyperbolic { features: 64 },
            equal(1, 37, 2),
            [2, 16, 16],
            true,
            1,
            Host,
        ),
        case("fourier", Fourier { features: 64 }, equal(1, 37, 2), [2, 16, 16], true, 1, Host),
        case("taylor", Taylor, equal(1, 37, 2), [2, 16, 16], true, 1, Host),
        case("taylor-k1", Taylor, equal(1, 20, 1), [1, 1, 1], false, 1, Host),
        case("dpfp", Dpfp { nu: 3 }, equal(1, 37, 2), [2, 8, 16], true, 1, Host),
        case("dpfp-odd", Dpfp { nu: 2 }, equal(1, 37, 2), [2, 9, 7], true, 1, Host),
        // Above 256 features F has several blocks.
        case("blocks", Favor { features: 400 }, equal(2, 70, 4), [2, 16, 20], true, 3, Host),
        case("blocks-odd", Taylor, equal(1, 37, 2), [1, 24, 7], true, 1, Host),
        case(
            "blocks-packed",
            T2r { features: 300 },
            packed(&[40, 0, 1, 33], 2),
            [2, 16, 16],
            true,
            2,
            LengthsAndSlots,
        ),
        case(
            "blocks-padded",
            T2r { features: 300 },
            Shape::padded(&[5..40, 0..9], 40, 2),
            [2, 16, 16],
            true,
            2,
            Host,
        ),
        case("blocks-one-token", Dpfp { nu: 5 }, equal(3, 1, 2), [2, 32, 8], true, 0, Slots),
    ];
    for case in &mut cases {
        match case.name {
            // Of each head, queries apart from keys.
            "t2r" => case.weights = WeightHeads::new(2, 4),
            "t2r-odd" => case.weights = WeightHeads::new(1, 2),
            // Of each key/value head, and of the queries that read it.
            "hedgehog" | "hedgehog-odd" => case.weights = WeightHeads::new(2, 0),
            "hedgehog-joint" => case.config.dtype = Dtype::F16,
            "blocks" => case.config.dtype = Dtype::Bf16,
            _ => {}
        }
    }
    let mut exp_plain = case("exp-plain", Exp, equal(1, 40, 4), [2, 16, 16], true, 2, Host);
    exp_plain.config.normalization = Normalization::None;
    cases.push(exp_plain);
    let mut exp_plain = case("exp-plain-blocks", Exp, equal(1, 12, 2), [2, 300, 8], true, 1, Host);
    exp_plain.config.normalization = Normalization::None;
    cases.push(exp_plain);
    let mut apart = case("softmax-exp", Exp, equal(1, 37, 2), [2, 16, 16], true, 1, Host);
    apart.config.query_feature_map = Some(Softmax);
    let mut projected =
        case("relu-t2r", FeatureMap::Relu, equal(1, 37, 4), [2, 16, 16], true, 1, Host);
    projected.config.query_feature_map = Some(T2r { features: 16 });
    projected.weights = WeightHeads::new(0, 4);
    let mut l2_norm = case("l2-elu", FeatureMap::Elu, equal(1, 37, 2), [2, 9, 7], true, 2, Host);
    l2_norm.config.l2_norm = true;
    let mut l2_exp =
        case("l2-favor", Favor { features: 32 }, equal(1, 37, 2), [2, 16, 16], true, 1, Host);
    l2_exp.config.l2_norm = true;
    cases.extend([apart, projected, l2_norm, l2_exp]);
    // A custom map of elements and projections, whose text goes into the shaders.
    if let Ok(map) = CustomMap::new("custom", CUSTOM, 24, |x, y, features| {
        for (f, feature) in features.iter_mut().enumerate() {
            *feature = if f < x.len() { x[f].abs() } else { y[f - x.len()].powi(2) };
        }
    }) {
        let map = FeatureMap::Custom(map.with_projections(8).non_negative().into());
        cases.push(case("custom", map, equal(1, 37, 4), [2, 16, 16], true, 2, Host));
    }
    cases
}

const CUSTOM: &str = "
fn phi(row: Row, feature: u32) -> f32 {
    if (feature < KEY_DIM) { return abs(x(row, feature)); }
    return square(y(row, feature - KEY_DIM));
}

fn square(x: f32) -> f32 { return x * x; }
";

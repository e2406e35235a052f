//! The table of cases.

use std::ops::Range;

use super::case::{Case, SequenceSource};
use super::map_cases::map_cases;
use super::rule_cases::rule_cases;
use super::strided_cases::strided_cases;
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Shape;

/// Every case, hostile shapes among them.
#[must_use]
pub fn cases() -> Vec<Case> {
    use FeatureMap::{Elu, Identity, Relu};
    let sum = Normalization::default();
    let case = |name, [b, t, h, g, k, v]: [u32; 6], map, normalization, initial_state, segments| {
        let config = Config::new(k, v).with_feature_map(map).with_normalization(normalization);
        let shape = Shape::new(b, t, h).with_kv_heads(g);
        Case { initial_state, segments, ..Case::new(name, config, shape) }
    };
    let none = Normalization::None;
    let mut cases = vec![
        // name, [B, T, H, G, K, V], map, normalisation, initial state, segments
        case("one-token", [1, 1, 1, 1, 64, 64], Elu, sum, false, 0),
        case("one-token-state", [2, 1, 4, 4, 64, 64], Elu, sum, true, 0),
        case("t63", [1, 63, 2, 2, 64, 64], Elu, sum, false, 1),
        case("t64-state", [1, 64, 2, 2, 64, 64], Elu, sum, true, 1),
        case("t65-segments", [1, 65, 2, 2, 64, 64], Elu, sum, false, 3),
        case("t1000-segments-state", [2, 1000, 2, 2, 64, 64], Elu, sum, true, 7),
        case("grouped", [2, 130, 8, 2, 64, 64], Elu, sum, true, 2),
        case("one-kv-head", [1, 37, 20, 1, 64, 64], Elu, sum, true, 2),
        case("plain", [1, 100, 2, 2, 64, 64], Elu, none, true, 2),
        case("identity-plain", [1, 100, 2, 2, 64, 64], Identity, none, true, 3),
        case("relu", [1, 129, 2, 2, 64, 64], Relu, sum, false, 2),
        case("k60-v36", [1, 77, 3, 3, 60, 36], Elu, sum, true, 2),
        case("k1-v1", [3, 50, 2, 1, 1, 1], Elu, sum, true, 3),
        case("k3-v5", [2, 67, 2, 2, 3, 5], Elu, sum, true, 2),
        case("k17-v33", [1, 66, 2, 2, 17, 33], Elu, sum, true, 4),
        case("k32-v128", [1, 70, 2, 2, 32, 128], Elu, sum, false, 2),
        case("k128-v32", [1, 70, 2, 2, 128, 32], Elu, sum, true, 2),
        case("k255-v100", [1, 40, 1, 1, 255, 100], Elu, sum, true, 2),
        case("k256-v256", [1, 65, 2, 2, 256, 256], Elu, sum, true, 2),
        // Above 256 features F has several blocks; V is as wide as elsewhere.
        case("k512-v64", [1, 40, 4, 2, 512, 64], Elu, sum, true, 3),
        case("k1024-v20", [2, 9, 2, 2, 1024, 20], Relu, sum, true, 1),
        case("k301-v515-odd", [1, 20, 2, 1, 301, 515], Elu, sum, true, 2),
        case("k16-v4096", [1, 9, 2, 2, 16, 4096], Elu, sum, true, 2),
        case("k512-plain", [1, 20, 2, 2, 512, 16], Identity, none, true, 2),
        case("k512-v1024-step", [2, 1, 2, 2, 512, 1024], Elu, sum, true, 0),
        case("v1500-step", [2, 1, 2, 2, 16, 1500], Elu, sum, true, 0),
        case("v1999-step-odd", [2, 1, 2, 2, 9, 1999], Elu, sum, true, 0),
        case("many-heads", [3, 9, 70, 35, 16, 16], Elu, sum, true, 1),
        case("long", [1, 16_500, 1, 1, 32, 32], Elu, sum, false, 0),
    ];
    // eps that weighs as much as the weights, and a scale other than 1.
    let mut large_eps = case("large-eps-scale", [1, 33, 2, 2, 64, 64], Relu, none, false, 2);
    large_eps.config.normalization = Normalization::Sum { eps: 50.0 };
    large_eps.config.scale = 0.125;
    cases.push(large_eps);
    // Value heads beside key and query heads, and a call without tokens.
    let heads = |name, [b, t, h, g, e]: [u32; 5], initial_state, segments| {
        let shape = Shape::new(b, t, h).with_key_heads(g).with_value_heads(e);
        Case { initial_state, segments, ..Case::new(name, Config::new(16, 16), shape) }
    };
    cases.extend([
        // name, [B, T, H, G, E], initial state, segments
        heads("grouped-values", [2, 70, 2, 2, 6], true, 3),
        heads("grouped-values-one-key", [1, 40, 2, 1, 4], true, 1),
        heads("grouped-keys", [1, 40, 8, 1, 4], true, 2),
        heads("grouped-values-step", [3, 1, 2, 2, 4], true, 0),
        heads("no-tokens", [2, 0, 2, 2, 2], true, 0),
    ]);
    cases.extend(packed_cases());
    cases.extend(strided_cases());
    cases.extend(half_cases());
    cases.extend(map_cases());
    cases.extend(rule_cases());
    cases
}

/// A few shapes for a config of the caller's own.
pub(crate) fn cases_of(config: &Config) -> Vec<Case> {
    let heads =
        |map: &FeatureMap, heads| if map.projections(config.key_dim) > 0 { heads } else { 0 };
    let weights = WeightHeads::new(heads(config.key_map(), 2), heads(config.query_map(), 1));
    let case = |name, shape: Shape, initial_state, segments, source| {
        let shape = shape.with_kv_heads(2);
        Case { initial_state, segments, source, weights, ..Case::new(name, config.clone(), shape) }
    };
    vec![
        case("own-one-token", Shape::new(2, 1, 2), false, 0, SequenceSource::Host),
        case("own", Shape::new(1, 37, 4), true, 1, SequenceSource::Host),
        case("own-segments", Shape::new(2, 70, 2), true, 3, SequenceSource::Host),
        case("own-packed", Shape::packed(&[20, 0, 1, 33], 4), true, 2, SequenceSource::Slots),
        case("own-step", Shape::new(3, 1, 4), true, 0, SequenceSource::Slots),
    ]
}

/// q, k, v and o in 16 bits, in words and across them.
fn half_cases() -> Vec<Case> {
    use Dtype::{Bf16, F16};
    use SequenceSource::{Host, LengthsAndSlots, Slots};
    let case = |name, dtype, shape: Shape, [g, k, v]: [u32; 3], initial_state, segments, source| {
        let config = Config::new(k, v).with_dtype(dtype);
        Case { initial_state, segments, source, ..Case::new(name, config, shape.with_kv_heads(g)) }
    };
    let (equal, packed) = (Shape::new, Shape::packed);
    vec![
        // name, dtype, [B, T, H] or lengths and H, [G, K, V], initial state, segments, source
        case("f16", F16, equal(2, 70, 4), [2, 16, 16], true, 3, Host),
        case("f16-odd", F16, equal(3, 67, 2), [2, 9, 7], true, 2, Host),
        case("f16-v1", F16, equal(1, 33, 3), [3, 8, 1], false, 1, Host),
        case("f16-packed-odd", F16, packed(&[5, 0, 90, 1, 41], 6), [3, 9, 7], true, 4, Slots),
        case("f16-step", F16, equal(5, 1, 4), [2, 16, 16], true, 0, Slots),
        case("f16-run-odd", F16, packed(&[3, 0, 9], 2), [2, 9, 7], true, 0, LengthsAndSlots),
        case("bf16", Bf16, equal(2, 70, 4), [2, 16, 16], true, 3, Host),
        case("bf16-odd", Bf16, equal(3, 67, 2), [2, 9, 7], true, 2, Host),
        case("bf16-wide", Bf16, equal(1, 20, 1), [1, 132, 8], true, 1, Host),
        case("f16-blocks-odd", F16, equal(1, 20, 2), [1, 301, 515], true, 2, Host),
        case("bf16-step-odd", Bf16, equal(5, 1, 2), [2, 9, 7], true, 0, Slots),
        case("bf16-run", Bf16, packed(&[4, 16, 1], 4), [2, 16, 16], true, 0, Slots),
    ]
}

/// Sequences of different lengths, states in a pool, decoding.
fn packed_cases() -> Vec<Case> {
    use SequenceSource::{Host, Lengths, LengthsAndSlots, Slots};
    let case = |name, lengths: &[u32], [h, g, k, v]: [u32; 4], initial_state, segments, source| {
        let shape = Shape::packed(lengths, h).with_kv_heads(g);
        Case { initial_state, segments, source, ..Case::new(name, Config::new(k, v), shape) }
    };
    let equal = |name, [b, t, h, g, k, v]: [u32; 6], initial_state, segments| {
        let shape = Shape::new(b, t, h).with_kv_heads(g);
        Case { initial_state, segments, source: Slots, ..Case::new(name, Config::new(k, v), shape) }
    };
    let padded = |name, valid: &[Range<u32>], t, [h, g, k, v]: [u32; 4], segments, source| {
        let shape = Shape::padded(valid, t, h).with_kv_heads(g);
        let case = Case::new(name, Config::new(k, v), shape);
        Case { initial_state: true, segments, source, ..case }
    };
    vec![
        // name, valid tokens of each row, T, [H, G, K, V], segments, source
        padded("padded-left", &[60..130, 0..130, 129..130], 130, [4, 2, 16, 16], 1, Host),
        padded("padded-right", &[0..70, 0..0, 0..1], 130, [4, 2, 16, 16], 3, Host),
        padded("padded-odd", &[3..90, 41..41, 5..67], 91, [6, 3, 9, 7], 4, Host),
        padded("padded-slots", &[60..130, 0..70, 130..130], 130, [4, 2, 16, 16], 3, Slots),
        padded("padded-run", &[3..9, 0..16, 15..16, 0..0], 20, [4, 2, 16, 16], 0, Host),
        padded("padded-run-gaps", &[30..31, 0..0, 0..2, 61..64], 64, [2, 1, 16, 16], 0, Host),
        padded("padded-run-slots", &[1..2, 0..3, 0..0], 3, [4, 4, 17, 33], 0, Slots),
        // name, lengths, [H, G, K, V], initial state, segments, source
        case("packed", &[70, 1, 0, 33, 129], [4, 2, 16, 16], false, 1, Host),
        case("packed-state", &[0, 70, 1, 0, 33, 129, 0], [4, 2, 16, 16], true, 1, Host),
        case("packed-segments", &[300, 1, 0, 33, 129, 64, 64, 0], [2, 2, 16, 16], true, 7, Host),
        case("packed-odd", &[5, 90, 0, 2, 41], [6, 3, 9, 7], true, 4, Host),
        case("packed-wide", &[40, 0, 18], [2, 2, 132, 8], true, 3, Host),
        case("packed-slots", &[70, 0, 129], [4, 2, 16, 16], true, 1, Slots),
        case("packed-slots-segments", &[0, 200, 3, 90], [2, 1, 16, 16], true, 5, Slots),
        case("packed-slots-slices", &[20, 37], [3, 1, 8, 36], true, 1, Slots),
        case("packed-on-device", &[70, 0, 1, 129, 0], [4, 2, 16, 16], true, 3, Lengths),
        case("packed-on-device-slots", &[0, 1, 200, 64], [4, 2, 16, 16], true, 4, LengthsAndSlots),
        // name, [B, T, H, G, K, V], initial state, segments
        equal("slots-segments", [3, 100, 2, 2, 16, 16], true, 3),
        equal("slots-new", [2, 40, 2, 2, 16, 16], false, 1),
        equal("slots-step", [5, 1, 4, 4, 64, 64], true, 0),
        equal("step-grouped", [3, 1, 8, 2, 64, 64], true, 0),
        equal("step-wide", [2, 1, 2, 2, 256, 256], true, 0),
        equal("step-odd", [3, 1, 3, 3, 17, 33], true, 0),
        equal("step-one-kv-head", [2, 1, 20, 1, 16, 16], true, 0),
        case("run", &[3, 1, 16, 0, 7], [4, 2, 64, 64], true, 0, Host),
        case("run-odd", &[2, 0, 9], [6, 2, 17, 33], true, 0, Slots),
        case("run-wide", &[4, 16], [2, 1, 128, 128], true, 0, Slots),
        case("run-on-device", &[1, 1, 0, 5, 1], [4, 4, 16, 16], true, 0, LengthsAndSlots),
        case("run-new", &[1, 2, 3], [2, 2, 16, 16], false, 0, Lengths),
    ]
}

//! The cases of rows with strides.

use super::case::{Case, SequenceSource};
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Shape;
use crate::problem::strides::TensorStrides;
use crate::problem::update_rule::{Beta, Decay, UpdateRule};

/// Rows that are not contiguous: views of one buffer, heads before tokens, gaps, unaligned offsets.
pub(super) fn strided_cases() -> Vec<Case> {
    use SequenceSource::{Host, Slots};
    type Of = fn(&Config, &Shape) -> TensorStrides;
    /// Gaps everywhere, of fours.
    fn gaps(config: &Config, shape: &Shape) -> TensorStrides {
        let mut strides = TensorStrides::contiguous(config, shape);
        for (i, of) in
            [&mut strides.q, &mut strides.k, &mut strides.v, &mut strides.o].into_iter().enumerate()
        {
            let heads = of.token / of.head;
            of.head += 4 * (i as u32 + 1);
            of.token = heads * of.head + 8;
            of.batch = shape.seq_len * of.token + 12;
            of.offset = 4 * i as u32;
        }
        strides
    }
    /// Offsets that no binding may have.
    fn offsets(config: &Config, shape: &Shape) -> TensorStrides {
        let mut strides = TensorStrides::contiguous(config, shape);
        (strides.q.offset, strides.k.offset, strides.v.offset) = (1, 2, 5);
        strides.o.offset = 3;
        strides
    }
    /// One key and value for all tokens' heads.
    fn broadcast(config: &Config, shape: &Shape) -> TensorStrides {
        let mut strides = TensorStrides::heads_first(config, shape);
        (strides.k.head, strides.v.head) = (0, 0);
        strides
    }
    let case = |name, shape: Shape, [g, k, v]: [u32; 3], of: Of, segments, source| {
        let (config, shape) = (Config::new(k, v), shape.with_kv_heads(g));
        let strides = of(&config, &shape);
        let case = Case::new(name, config, shape.with_strides(strides));
        Case { initial_state: true, segments, source, ..case }
    };
    let (equal, packed, padded) = (Shape::new, Shape::packed, Shape::padded);
    let fused = TensorStrides::fused;
    let mut cases = vec![
        // name, [B, T, H], [G, K, V], strides, segments, source
        case("strides-fused", equal(2, 70, 4), [2, 16, 16], fused, 3, Host),
        case(
            "strides-heads-first",
            equal(2, 67, 4),
            [2, 16, 16],
            TensorStrides::heads_first,
            3,
            Host,
        ),
        case(
            "strides-heads-first-odd",
            equal(2, 20, 3),
            [3, 9, 7],
            TensorStrides::heads_first,
            1,
            Host,
        ),
        case("strides-gaps", equal(3, 40, 2), [1, 16, 16], gaps, 2, Host),
        case("strides-offsets", equal(2, 37, 4), [2, 16, 16], offsets, 2, Host),
        case("strides-broadcast", equal(2, 37, 4), [4, 16, 16], broadcast, 2, Host),
        case("strides-packed", packed(&[20, 0, 33], 4), [2, 16, 16], fused, 3, Slots),
        case("strides-padded", padded(&[3..30, 0..9], 30, 4), [2, 16, 16], gaps, 2, Host),
        case("strides-step", equal(5, 1, 4), [2, 16, 16], fused, 0, Slots),
        case("strides-run", packed(&[3, 0, 9], 4), [2, 17, 9], gaps, 0, Slots),
        case(
            "strides-step-heads-first",
            equal(3, 4, 4),
            [2, 16, 16],
            TensorStrides::heads_first,
            0,
            Host,
        ),
    ];
    let half = |name, dtype, shape: Shape, widths: [u32; 2], of: Of, segments| {
        let config = Config::new(widths[0], widths[1]).with_dtype(dtype);
        let strides = of(&config, &shape);
        Case { segments, ..Case::new(name, config, shape.with_strides(strides)) }
    };
    cases.push(half("strides-f16", Dtype::F16, equal(2, 40, 2), [16, 16], gaps, 2));
    cases.push(half("strides-f16-offsets", Dtype::F16, equal(2, 40, 2), [16, 16], offsets, 2));
    cases.push(half(
        "strides-bf16-odd",
        Dtype::Bf16,
        equal(2, 20, 2),
        [9, 7],
        TensorStrides::heads_first,
        1,
    ));
    let mut blocks = half("strides-blocks", Dtype::F32, equal(2, 20, 2), [16, 16], gaps, 2);
    blocks.config.feature_map = FeatureMap::Favor { features: 300 };
    blocks.weights = WeightHeads::new(1, 0);
    cases.push(blocks);
    let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    let config = Config::of_rule(32, 16, rule);
    let shape = equal(2, 70, 2).with_value_heads(4);
    let strides = TensorStrides::fused(&config, &shape);
    cases.push(Case {
        segments: 3,
        ..Case::new("strides-gated-delta", config, shape.with_strides(strides))
    });
    cases
}

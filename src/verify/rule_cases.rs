//! The cases of the update rules with decays and betas.

use std::ops::Range;

use super::case::{Case, Sampling, SequenceSource};
use crate::problem::config::{Config, Normalization};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::shape::Shape;
use crate::problem::update_rule::{Beta, BetaActivation, Decay, DecayActivation, UpdateRule};

/// Every rule: hostile decays and keys, grouped values, odd widths, packed, pooled, one token.
pub(super) fn rule_cases() -> Vec<Case> {
    use Sampling::{CorrelatedKeys, Forgets, Ordinary, SlowDecays, StrongDecays};
    use SequenceSource::{Host, Lengths, LengthsAndSlots, Slots};
    let (constant, head, row) = (Decay::constant(), Decay::per_head(), Decay::per_row());
    let (beta, shared) = (Beta::per_head(), Beta::shared());
    let softplus = head.with_activation(DecayActivation::Softplus);
    let bounded = row.with_activation(DecayActivation::Sigmoid { lower_bound: -5.0 });
    let sigmoid = beta.with_activation(BetaActivation::Sigmoid);
    let gated = UpdateRule::Gated;
    let gated_delta = UpdateRule::GatedDelta;
    let case = |name, rule, shape: Shape, [k, v]: [u32; 2], sampling, segments, source| {
        let config = Config::of_rule(k, v, rule);
        Case { initial_state: true, segments, source, sampling, ..Case::new(name, config, shape) }
    };
    let equal =
        |b, t, [h, g, e]: [u32; 3]| Shape::new(b, t, h).with_key_heads(g).with_value_heads(e);
    let packed = |lengths: &[u32], [h, g, e]: [u32; 3]| {
        Shape::packed(lengths, h).with_key_heads(g).with_value_heads(e)
    };
    let padded = |valid: &[Range<u32>], t, [h, g, e]: [u32; 3]| {
        Shape::padded(valid, t, h).with_key_heads(g).with_value_heads(e)
    };
    let mut cases = vec![
        // name, rule, [B, T, [H, G, E]] or lengths, [K, V], sampling, segments, source
        case("gated", gated(head), equal(2, 70, [2, 2, 2]), [32, 32], Ordinary, 3, Host),
        case(
            "gated-constant",
            gated(constant),
            equal(1, 90, [2, 2, 4]),
            [16, 16],
            Ordinary,
            2,
            Host,
        ),
        case("gated-rows", gated(row), equal(2, 70, [2, 1, 4]), [32, 16], Ordinary, 3, Host),
        case("gated-rows-odd", gated(row), equal(1, 67, [4, 2, 2]), [17, 9], Ordinary, 4, Host),
        case("gated-strong", gated(row), equal(1, 60, [2, 2, 2]), [16, 16], StrongDecays, 3, Host),
        case("gated-forgets", gated(head), equal(1, 60, [2, 2, 2]), [16, 16], Forgets, 4, Host),
        case(
            "gated-strong-heads",
            gated(head),
            equal(1, 60, [2, 2, 2]),
            [16, 16],
            StrongDecays,
            3,
            Host,
        ),
        case("gated-slow", gated(head), equal(1, 2000, [1, 1, 1]), [16, 16], SlowDecays, 3, Host),
        case(
            "gated-softplus",
            gated(softplus),
            equal(1, 40, [2, 2, 4]),
            [16, 16],
            Ordinary,
            2,
            Host,
        ),
        case("gated-bounded", gated(bounded), equal(1, 40, [2, 2, 4]), [16, 16], Ordinary, 2, Host),
        case(
            "gated-packed",
            gated(head),
            packed(&[70, 0, 33], [4, 2, 2]),
            [16, 16],
            Ordinary,
            4,
            Slots,
        ),
        case(
            "gated-on-device",
            gated(row),
            packed(&[5, 40, 0], [2, 2, 4]),
            [16, 8],
            Ordinary,
            2,
            Lengths,
        ),
        case("gated-step", gated(head), equal(4, 1, [2, 2, 6]), [32, 32], Ordinary, 0, Slots),
        case("gated-run", gated(row), packed(&[3, 0, 9], [2, 2, 2]), [17, 9], Ordinary, 0, Slots),
        case(
            "delta",
            UpdateRule::Delta(beta),
            equal(2, 70, [2, 2, 2]),
            [32, 32],
            Ordinary,
            0,
            Host,
        ),
        case(
            "delta-shared",
            UpdateRule::Delta(shared),
            equal(1, 37, [4, 2, 2]),
            [16, 16],
            Ordinary,
            0,
            Host,
        ),
        case(
            "gated-delta",
            gated_delta(head, beta),
            equal(2, 70, [2, 2, 6]),
            [64, 64],
            Ordinary,
            0,
            Host,
        ),
        case(
            "gated-delta-wide",
            gated_delta(head, beta),
            equal(1, 33, [1, 1, 1]),
            [128, 128],
            Ordinary,
            0,
            Host,
        ),
        case(
            "gated-delta-rows",
            gated_delta(row, beta),
            equal(1, 70, [2, 2, 4]),
            [32, 16],
            Ordinary,
            0,
            Host,
        ),
        case(
            "gated-delta-odd",
            gated_delta(row, shared),
            equal(3, 41, [2, 2, 2]),
            [17, 9],
            Ordinary,
            0,
            Host,
        ),
        case(
            "gated-delta-strong",
            gated_delta(row, beta),
            equal(1, 50, [2, 2, 2]),
            [32, 16],
            StrongDecays,
            0,
            Host,
        ),
        case(
            "gated-delta-forgets",
            gated_delta(head, beta),
            equal(1, 50, [2, 2, 2]),
            [32, 16],
            Forgets,
            0,
            Host,
        ),
        case(
            "gated-delta-alike",
            gated_delta(head, beta),
            equal(1, 90, [2, 2, 2]),
            [64, 16],
            CorrelatedKeys,
            0,
            Host,
        ),
        case(
            "gated-delta-gates",
            gated_delta(bounded, sigmoid),
            equal(1, 40, [2, 2, 4]),
            [32, 16],
            Ordinary,
            0,
            Host,
        ),
        case(
            "gated-delta-draft",
            gated_delta(head, beta),
            packed(&[3, 0, 8, 1], [2, 2, 4]),
            [32, 16],
            CorrelatedKeys,
            0,
            Slots,
        ),
        case(
            "gated-delta-draft-odd",
            gated_delta(row, shared),
            packed(&[2, 5], [4, 2, 2]),
            [17, 9],
            Ordinary,
            0,
            LengthsAndSlots,
        ),
        case(
            "delta-segments",
            UpdateRule::Delta(beta),
            equal(2, 70, [2, 2, 2]),
            [32, 16],
            Ordinary,
            3,
            Host,
        ),
        case(
            "gated-delta-segments",
            gated_delta(head, beta),
            equal(1, 90, [2, 2, 4]),
            [16, 32],
            CorrelatedKeys,
            4,
            Host,
        ),
        case(
            "gated-delta-segments-odd",
            gated_delta(row, beta),
            packed(&[50, 0, 33], [2, 2, 4]),
            [17, 9],
            StrongDecays,
            3,
            LengthsAndSlots,
        ),
        case(
            "gated-delta-packed",
            gated_delta(head, beta),
            packed(&[40, 0, 33], [2, 2, 4]),
            [32, 16],
            Ordinary,
            0,
            Slots,
        ),
        case(
            "gated-delta-on-device",
            gated_delta(row, beta),
            packed(&[0, 21, 8], [2, 2, 4]),
            [32, 16],
            Ordinary,
            0,
            LengthsAndSlots,
        ),
        case("gated-rows-wide", gated(row), equal(1, 20, [2, 2, 2]), [320, 260], Ordinary, 2, Host),
        case(
            "gated-delta-wide",
            gated_delta(head, beta),
            equal(1, 20, [2, 2, 2]),
            [32, 520],
            Ordinary,
            2,
            Host,
        ),
        case(
            "gated-padded-rows",
            gated(row),
            padded(&[4..70, 0..33, 9..9], 70, [4, 2, 2]),
            [17, 9],
            Ordinary,
            3,
            Host,
        ),
        case(
            "gated-delta-padded",
            gated_delta(head, beta),
            padded(&[4..70, 0..33], 70, [2, 2, 4]),
            [32, 16],
            Ordinary,
            3,
            Slots,
        ),
        case(
            "gated-delta-step",
            gated_delta(head, beta),
            equal(4, 1, [2, 2, 6]),
            [64, 64],
            Ordinary,
            0,
            Slots,
        ),
        case(
            "gated-delta-run",
            gated_delta(head, beta),
            packed(&[3, 0, 16, 1], [2, 2, 4]),
            [32, 16],
            Ordinary,
            0,
            Slots,
        ),
    ];
    // With the quotient, nu decays too; with rows of L2 norm 1, what a key recalls is its own.
    for (name, rule, shape, segments, source) in [
        ("gated-sum", gated(head), equal(2, 70, [4, 2, 2]), 3, Host),
        ("gated-rows-sum", gated(row), equal(1, 67, [2, 2, 4]), 3, Host),
        ("gated-sum-step", gated(row), equal(3, 1, [4, 2, 2]), 0, Slots),
        ("gated-sum-run", gated(head), packed(&[3, 0, 9], [2, 2, 4]), 0, LengthsAndSlots),
    ] {
        let mut case = case(name, rule, shape, [17, 9], Ordinary, segments, source);
        case.config.feature_map = FeatureMap::Elu;
        case.config.normalization = Normalization::default();
        cases.push(case);
    }
    let mut norm = case(
        "gated-delta-norm",
        gated_delta(head, beta),
        equal(1, 70, [2, 2, 4]),
        [64, 32],
        CorrelatedKeys,
        0,
        Host,
    );
    norm.config.l2_norm = true;
    let mut taylor =
        case("gated-blocks", gated(row), equal(1, 40, [2, 2, 2]), [24, 16], Ordinary, 2, Host);
    taylor.config.feature_map = FeatureMap::Taylor;
    taylor.config.normalization = Normalization::SignedSum { eps: 1.0 };
    let half = |name, dtype, rule, shape, source| {
        let mut case = case(name, rule, shape, [16, 9], Ordinary, 0, source);
        case.config.dtype = dtype;
        case
    };
    let f16 = |decay: Decay| decay.with_dtype(Dtype::F16);
    cases.extend([
        norm,
        taylor,
        half("f16-gated-rows", Dtype::F16, gated(f16(row)), equal(2, 37, [2, 2, 4]), Host),
        half(
            "f16-gated-delta",
            Dtype::F16,
            gated_delta(f16(head), beta.with_dtype(Dtype::F16)),
            equal(3, 21, [3, 1, 3]),
            Host,
        ),
        half(
            "bf16-gated-delta",
            Dtype::Bf16,
            gated_delta(head, shared.with_dtype(Dtype::Bf16)),
            equal(3, 1, [2, 2, 4]),
            Slots,
        ),
    ]);
    cases
}

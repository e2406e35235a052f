//! Shaders made wrong on purpose: the proof that the harness can fail.

use std::borrow::Cow;

use crate::kernel::stage::Stage;

/// A mistake that a kernel could have and the harness must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mutation {
    /// A token does not see itself.
    MaskOffByOne,
    /// eps is not added.
    EpsDropped,
    /// A last chunk with fewer tokens, or the last token, is left out.
    LastChunkSkipped,
    /// A segment starts from zero.
    StateNotCarried,
    /// The output is not divided.
    NormalizerForgotten,
    /// Padding is masked before the map, where φ(0) = 1 undoes it.
    MaskedBeforePhi,
    /// The scan of the segments' states leaves the initial state out.
    ScanWithoutInitial,
    /// A sequence has the state of its number and not that of its slot.
    SlotIgnored,
    /// A packed sequence has the first token of the next.
    LengthOffByOne,
    /// A step of decoding leaves the state as it was.
    StepNotWritten,
    /// The share of the last block of features is left out.
    BlockForgotten,
    /// Projections are without their bias.
    BiasForgotten,
    /// A row of FAVOR+ is mapped without its length.
    LengthForgotten,
}

impl Mutation {
    /// Every mistake.
    pub const ALL: [Mutation; 13] = [
        Self::MaskOffByOne,
        Self::EpsDropped,
        Self::LastChunkSkipped,
        Self::StateNotCarried,
        Self::NormalizerForgotten,
        Self::MaskedBeforePhi,
        Self::ScanWithoutInitial,
        Self::SlotIgnored,
        Self::LengthOffByOne,
        Self::StepNotWritten,
        Self::BlockForgotten,
        Self::BiasForgotten,
        Self::LengthForgotten,
    ];

    /// The stage it is made in, and for each way the stage is written, the text it replaces
    /// and the text in its place.
    #[must_use]
    pub fn texts(self) -> (Stage, &'static [(&'static str, &'static str)]) {
        match self {
            Self::MaskOffByOne => (
                Stage::SegmentOutput,
                &[
                    (
                        "add_outer(mu, features_of(token, feature_thread), values_of(token, column_thread));",
                        "if (token > 0u) { add_outer(mu, features_of(token - 1u, feature_thread), \
                         values_of(token - 1u, column_thread)); }",
                    ),
                    (
                        "add_outer(mu, k, value_quad(step, index), features);\n    \
                         let sum = o + apply(mu, q, features);",
                        "let sum = o + apply(mu, q, features);\n    \
                         add_outer(mu, k, value_quad(step, index), features);",
                    ),
                ],
            ),
            Self::EpsDropped => (Stage::SegmentOutput, &[("SCALE * sum + EPS", "SCALE * sum")]),
            Self::LastChunkSkipped => (
                Stage::SegmentOutput,
                &[
                    ("first < place.end; first", "first + params.chunk_len <= place.end; first"),
                    (
                        "tokens_begin + place.end - place.begin",
                        "tokens_begin + place.end - place.begin - 1u",
                    ),
                ],
            ),
            Self::StateNotCarried => (
                Stage::SegmentOutput,
                &[
                    (
                        "start_tile(start_state, place.feature_block, place.value_block, thread)",
                        "Tile()",
                    ),
                    ("select(FEATURE_DIM, 0u, START == START_ZERO)", "0u"),
                ],
            ),
            Self::NormalizerForgotten => (
                Stage::SegmentOutput,
                &[("if (!NORMALIZE) { return SCALE; }", "if (true) { return SCALE; }")],
            ),
            Self::MaskedBeforePhi => (
                Stage::SegmentOutput,
                &[(
                    "select(vec4<f32>(0.0), element_wise(map, x), are_features(quad))",
                    "element_wise(map, select(vec4<f32>(0.0), x, are_features(quad)))",
                )],
            ),
            Self::ScanWithoutInitial => {
                (Stage::StateScan, &[("sum = start[state * len + element];", "sum = Element();")])
            }
            Self::SlotIgnored => {
                (Stage::DecodeStep, &[("state_at(sequence.state, g)", "state_at(n, g)")])
            }
            Self::LengthOffByOne => (
                Stage::SequenceTable,
                &[(
                    "sequence.end = length_entry(n + 1u);",
                    "sequence.end = min(length_entry(n + 1u) + 1u, params.tokens);",
                )],
            ),
            Self::StepNotWritten => (
                Stage::DecodeStep,
                &[
                    ("store_tile(&mu, state, 0u, slice, thread);", ""),
                    ("store_row(state, feature, quad, a);", ""),
                ],
            ),
            Self::BlockForgotten => {
                (Stage::OutputSum, &[("block < FEATURE_BLOCKS", "block + 1u < FEATURE_BLOCKS")])
            }
            Self::BiasForgotten => (
                Stage::SegmentOutput,
                &[(
                    "var sum = weights[at + 4u * ROW_QUADS * stride];",
                    "var sum = vec4<f32>(0.0);",
                )],
            ),
            Self::LengthForgotten => {
                (Stage::SegmentOutput, &[("vec4<f32>(0.5 * sum *", "vec4<f32>(0.0 * sum *")])
            }
        }
    }

    pub(crate) fn edit(self, stage: Stage, wgsl: Cow<'static, str>) -> Cow<'static, str> {
        let (edited, texts) = self.texts();
        if stage != edited {
            return wgsl;
        }
        let wrong = texts.iter().fold(wgsl.into_owned(), |wgsl, (from, to)| wgsl.replace(from, to));
        Cow::Owned(wrong)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
mod tests {
    use super::Mutation;
    use crate::plan::tuning::Tuning;
    use crate::problem::config::Config;
    use crate::problem::feature_map::FeatureMap;

    #[test]
    fn each_mutation_edits_one_place() {
        let limits = wgpu::Limits::default();
        for device_type in [wgpu::DeviceType::Other, wgpu::DeviceType::Cpu] {
            for mutation in Mutation::ALL {
                let mut config = Config::new(64, 64);
                if matches!(mutation, Mutation::BiasForgotten | Mutation::LengthForgotten) {
                    config.feature_map = FeatureMap::Favor { features: 64 };
                }
                let tuning = Tuning::new(&config, &limits, device_type).unwrap();
                let (stage, texts) = mutation.texts();
                let wgsl = stage.wgsl(&config, tuning.layout);
                let places: usize = texts.iter().map(|(from, _)| wgsl.matches(from).count()).sum();
                assert_eq!(places, 1, "{mutation:?} on {device_type:?}");
            }
        }
    }
}

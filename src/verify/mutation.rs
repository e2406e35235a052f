//! Shaders that are wrong on purpose, to prove that the harness can fail.

use crate::kernel::stage::Stage;

/// A mistake that a kernel could have and the harness must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mutation {
    /// A token sees the value of the token before it in place of its own.
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
    /// The partial sum of the last feature block is left out.
    BlockForgotten,
    /// Projections are without their bias.
    BiasForgotten,
    /// A row of FAVOR+ is mapped without its L2 norm.
    NormForgotten,
    /// The state decays after a token is written and not before.
    DecayAfterWrite,
    /// A corrected value is not multiplied by beta.
    BetaForgotten,
    /// A key recalls the state from before it decays.
    DeltaFromUndecayed,
    /// mu decays and nu does not.
    NuNotDecayed,
    /// The decays that a state has apart from its tile are lost when the final state is stored. A
    /// layout without such a factor has nothing to forget.
    FactorForgotten,
    /// Value head e reads key head e % G and not e / (E/G).
    HeadsTiled,
    /// The sum of a lane that shares a row of the state with others is left out.
    LaneForgotten,
    /// On matrix units: a token does not see itself.
    MatrixMaskOffByOne,
    /// On matrix units: a key decays from its own token on and not from the one behind it.
    MatrixDecayOffByOne,
    /// On matrix units: the scale of a chunk's values is not taken back.
    MatrixScaleKept,
    /// On matrix units: a key does not recall the value of the token before it.
    MatrixSolveOffByOne,
    /// On matrix units: a key recalls the state before it decays.
    MatrixRecallUndecayed,
}

impl Mutation {
    /// The mistakes in the shaders for matrix units.
    pub const OF_MATRICES: [Mutation; 5] = [
        Self::MatrixMaskOffByOne,
        Self::MatrixDecayOffByOne,
        Self::MatrixScaleKept,
        Self::MatrixSolveOffByOne,
        Self::MatrixRecallUndecayed,
    ];

    /// Every mistake but those of matrix units.
    pub const ALL: [Mutation; 20] = [
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
        Self::NormForgotten,
        Self::DecayAfterWrite,
        Self::BetaForgotten,
        Self::DeltaFromUndecayed,
        Self::NuNotDecayed,
        Self::FactorForgotten,
        Self::HeadsTiled,
        Self::LaneForgotten,
    ];

    /// The stage it is made in, the text it replaces and the text in its place. A shader may have
    /// more than one form: see [`Mutation::other_texts`].
    #[must_use]
    pub fn texts(self) -> (Stage, &'static str, &'static str) {
        match self {
            Self::MaskOffByOne => (
                Stage::SegmentOutput,
                "value(item, chunk, i, lane)",
                "value(item, Chunk(max(chunk.first, 1u) - 1u, chunk.tokens), max(i, 1u) - 1u, lane)",
            ),
            Self::EpsDropped => {
                (Stage::SegmentOutput, "SCALE * weight + EPS * gain", "SCALE * weight")
            }
            Self::LastChunkSkipped => (
                Stage::SegmentOutput,
                "while (next.tokens > 0u) {",
                "while (next.first + max(params.chunk_len, 2u) <= item.end) {",
            ),
            Self::StateNotCarried => {
                (Stage::SegmentOutput, "load_tile(&mu, begin, item, lane);", "")
            }
            Self::NormalizerForgotten => (
                Stage::SegmentOutput,
                "if (!NORMALIZE) { return SCALE / gain; }",
                "if (true) { return SCALE / gain; }",
            ),
            Self::MaskedBeforePhi => (
                Stage::SegmentOutput,
                "select(vec4<f32>(0.0), activate(map, x, s), is_feature(f4))",
                "activate(map, select(vec4<f32>(0.0), x, is_feature(f4)), s)",
            ),
            Self::ScanWithoutInitial => {
                (Stage::StateScan, "sum = state_in[source * len + element];", "sum = Element();")
            }
            Self::SlotIgnored => (
                Stage::DecodeStep,
                "sequence.state = sequences.words[slot_index(n)];",
                "sequence.state = n;",
            ),
            Self::LengthOffByOne => (
                Stage::SequenceTable,
                "end = length_word(n + 1u);",
                "end = min(length_word(n + 1u) + 1u, params.total_tokens);",
            ),
            Self::StepNotWritten => {
                (Stage::DecodeStep, "store_tile(&mu, at.stored, item, lane);", "")
            }
            Self::BlockForgotten => (
                Stage::OutputSum,
                "block < FEATURE_BLOCKS; block++) {\n        let at",
                "block + 1u < FEATURE_BLOCKS; block++) {\n        let at",
            ),
            Self::BiasForgotten => (
                Stage::SegmentOutput,
                "var sum = weights[at + 4u * ROW_VEC4 * stride];",
                "var sum = vec4<f32>(0.0);",
            ),
            Self::NormForgotten => {
                (Stage::SegmentOutput, "0.5 * squared_norm(row)", "0.0 * squared_norm(row)")
            }
            Self::DecayAfterWrite => (
                Stage::SegmentOutput,
                "if (HAS_DECAY) { decay_state(mu, factor, load_decay(row, f4)); }\n    \
                 add_outer(mu, key, scaled(factor, value));",
                "add_outer(mu, key, scaled(factor, value));\n    \
                 decay_state(mu, factor, load_decay(row, f4));",
            ),
            Self::BetaForgotten => (Stage::TokenGates, "gate = beta_of(row);", "gate = 1.0;"),
            // For layouts whose threads have all features of their columns.
            Self::DeltaFromUndecayed => (
                Stage::SegmentOutput,
                "    if (HAS_DECAY) { decay_state(mu, factor, load_decay(row, f4)); }\n    \
                 let beta = load_beta(row);\n    let recalled = read_state(mu, factor, key);",
                "    let beta = load_beta(row);\n    let recalled = read_state(mu, factor, key);\n    \
                 if (HAS_DECAY) { decay_state(mu, factor, load_decay(row, f4)); }",
            ),
            Self::NuNotDecayed => {
                (Stage::SegmentOutput, "return nu + gates[row].x * nu;", "return nu;")
            }
            Self::FactorForgotten => (
                Stage::SegmentOutput,
                "settle(&mu, &factor);\n        store_state(",
                "store_state(",
            ),
            Self::HeadsTiled => (
                Stage::SegmentOutput,
                "return e / params.key_group;",
                "return e % params.key_heads;",
            ),
            // For layouts whose lanes meet in workgroup memory.
            Self::LaneForgotten => (
                Stage::SegmentOutput,
                "other < LANES; other++) { sum += partial_sums",
                "other + 1u < LANES; other++) { sum += partial_sums",
            ),
            Self::MatrixMaskOffByOne => {
                (Stage::SegmentOutput, "i < chunk.tokens && j <= i)", "i < chunk.tokens && j < i)")
            }
            Self::MatrixDecayOffByOne => (
                Stage::SegmentOutput,
                "let score = pair_sum(pair) * key_inverses[j] * kept_between(j + 1u, i + 1u)",
                "let score = pair_sum(pair) * key_inverses[j] * kept_between(j, i + 1u)",
            ),
            Self::MatrixScaleKept => (
                Stage::SegmentState,
                "let inverse = half_inverse(weighted_max());",
                "let inverse = 1.0;",
            ),
            Self::MatrixSolveOffByOne => (
                Stage::SegmentOutput,
                "if (j < i && i < chunk.tokens)",
                "if (j + 1u < i && i < chunk.tokens)",
            ),
            Self::MatrixRecallUndecayed => (
                Stage::SegmentTransition,
                "recalls[thread] = kept_between(0u, thread + 1u) * state_inverse()",
                "recalls[thread] = state_inverse()",
            ),
        }
    }

    /// The texts of a stage's other form, if the mistake can be made in it as well.
    #[must_use]
    pub fn other_texts(self) -> Option<(&'static str, &'static str)> {
        match self {
            // For layouts in which several lanes share a row of the state.
            Self::DeltaFromUndecayed => Some((
                "    kept = decay_kept(kept, gate_row(chunk.first + i, item.head), lane.f4);\n        let recalled",
                "    let recalled",
            )),
            // For layouts whose lanes are neighbours in a subgroup.
            Self::LaneForgotten => Some(("sum += subgroupShuffleXor(sum, 1u);", "")),
            _ => None,
        }
    }

    pub(crate) fn edit(self, stage: Stage, wgsl: String) -> String {
        let (edited, from, to) = self.texts();
        if stage != edited {
            return wgsl;
        }
        match self.other_texts() {
            Some((from, to)) if wgsl.contains(from) => wgsl.replace(from, to),
            _ => wgsl.replace(from, to),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]
mod tests {
    use super::Mutation;
    use crate::kernel::layout::Layout;
    use crate::plan::tuning::Tuning;
    use crate::plan::{Plan, States};
    use crate::problem::config::{Config, Normalization};
    use crate::problem::dtype::Dtype;
    use crate::problem::feature_map::FeatureMap;
    use crate::problem::shape::{PackedLimits, Shape};
    use crate::problem::update_rule::{Beta, Decay, UpdateRule};

    /// A config whose shaders can have the mistake.
    fn config_of(mutation: Mutation) -> Config {
        let (decay, beta) = (Decay::per_head(), Beta::per_head());
        let config = Config::new(64, 64);
        match mutation {
            // Of several lanes on any device.
            Mutation::BiasForgotten | Mutation::NormForgotten | Mutation::LaneForgotten => {
                config.with_feature_map(FeatureMap::Favor { features: 64 })
            }
            Mutation::BlockForgotten => {
                config.with_feature_map(FeatureMap::Favor { features: 1000 })
            }
            Mutation::EpsDropped => config.with_normalization(Normalization::Sum { eps: 1.0 }),
            Mutation::DecayAfterWrite | Mutation::NuNotDecayed | Mutation::FactorForgotten => {
                config.with_update_rule(UpdateRule::Gated(decay))
            }
            Mutation::BetaForgotten | Mutation::DeltaFromUndecayed => {
                Config::of_rule(64, 64, UpdateRule::GatedDelta(decay, beta))
            }
            _ => config,
        }
    }

    /// In a plan that has every stage that runs on matrix units.
    #[test]
    fn each_mutation_of_matrices_edits_one_place() {
        let limits =
            wgpu::Limits { max_compute_workgroup_storage_size: 65_536, ..Default::default() };
        // With both stages that a delta rule has before its scan.
        let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
        let config = Config::of_rule(64, 64, rule).with_dtype(Dtype::F16);
        let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::Other).unwrap();
        let tuning = tuning.with_layout(Layout::matrices(16, 4, 64));
        let tuning = Tuning { segment_len: Some(1000), ..tuning };
        let plan = Plan::new(&config, &Shape::new(1, 4000, 2), &limits, &tuning).unwrap();
        for mutation in Mutation::OF_MATRICES {
            let (stage, from, _) = mutation.texts();
            let wgsl = plan.wgsl(stage, States::InitialAndFinal).unwrap();
            assert_eq!(wgsl.matches(from).count(), 1, "{mutation:?}");
        }
    }

    /// In a plan that has every stage of prompts, and in one of decoding.
    #[test]
    fn each_mutation_edits_one_place() {
        let limits = wgpu::Limits::default();
        for device_type in [wgpu::DeviceType::Other, wgpu::DeviceType::Cpu] {
            for mutation in Mutation::ALL {
                let config = config_of(mutation);
                let tuning = Tuning::new(&config, &limits, device_type).unwrap();
                let shape = |max_len| {
                    let limits = PackedLimits { sequences: 4, tokens: 4 * max_len, max_len };
                    Shape::packed_up_to(limits, 2).with_slots(8)
                };
                let (stage, from, _) = mutation.texts();
                let text = |max_len| {
                    let plan = Plan::new(&config, &shape(max_len), &limits, &tuning).unwrap();
                    plan.wgsl(stage, States::InPlace)
                };
                let wgsl = text(4000).or_else(|| text(2)).unwrap();
                let mut count = wgsl.matches(from).count();
                count += mutation.other_texts().map_or(0, |(from, _)| wgsl.matches(from).count());
                assert_eq!(count, 1, "{mutation:?} on {device_type:?}");
            }
        }
    }
}

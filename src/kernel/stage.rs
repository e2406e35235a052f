//! The table of kernels: the stages of a call, their files, bindings and interfaces.

use crate::kernel::assembler::{Module, Parts};
use crate::kernel::layout::{Layout, RowSource};
use crate::kernel::numbers::{Variant, numbers};
use crate::problem::config::{Config, Gating};
use crate::problem::dtype::Dtype;

/// A dispatch of a call. Its name is the name of its shader file, entry point, mirror in
/// [`reference`](mod@crate::reference), GPU label, test trial and bench row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Stage {
    /// One of the entries that write each slot, where entries are unchecked.
    SequenceClaims,
    /// The entries that others conflict with.
    SequenceConflicts,
    /// A checked table of the sequences, from the caller's lengths and slots.
    SequenceTable,
    /// The decays and betas of all tokens, after their activations.
    TokenGates,
    /// The part of the state that each segment adds.
    SegmentState,
    /// The matrix by which each segment of a delta rule multiplies the state before it.
    SegmentTransition,
    /// The state that each segment starts from.
    StateScan,
    /// The same with a delta rule, from those matrices.
    TransitionScan,
    /// The outputs of each segment; where F has several blocks, their partial sums.
    SegmentOutput,
    /// The outputs, from those partial sums.
    OutputSum,
    /// The outputs of sequences of a few tokens, each state updated where it is.
    DecodeStep,
}

/// A tensor as the shaders bind it; the number is its binding in every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Binding {
    Params = 0,
    Q = 1,
    K = 2,
    V = 3,
    O = 4,
    StateIn = 5,
    StateOut = 6,
    Table = 7,
    Sequences = 8,
    Weights = 9,
    Partials = 10,
    Gates = 11,
    Decay = 12,
    Beta = 13,
    GateWeights = 14,
    SegmentDecays = 15,
    Transitions = 16,
    KeyStatus = 17,
}

impl Binding {
    pub(crate) const LAST: Self = Self::KeyStatus;
}

/// A stage as a row of the table.
pub(crate) struct Kernel {
    /// The stage's one name.
    pub(crate) name: &'static str,
    /// The label of its GPU objects.
    pub(crate) label: &'static str,
    /// The tensors it binds, whatever the config.
    pub(crate) binds: &'static [Binding],
    /// The bindings that some calls do not have.
    pub(crate) optional: &'static [Binding],
    /// True if it goes through rows of k and v with a tile of mu.
    pub(crate) has_tile: bool,
}

use Binding::{
    Beta, Decay, GateWeights, Gates, K, KeyStatus, O, Params, Partials, Q, SegmentDecays,
    Sequences, StateIn, StateOut, Table, Transitions, V, Weights,
};

const KERNELS: [Kernel; 11] = [
    Kernel {
        name: "sequence_claims",
        label: "linear_attention.sequence_claims",
        binds: &[Params, Sequences],
        optional: &[],
        has_tile: false,
    },
    Kernel {
        name: "sequence_conflicts",
        label: "linear_attention.sequence_conflicts",
        binds: &[Params, Sequences],
        optional: &[],
        has_tile: false,
    },
    Kernel {
        name: "sequence_table",
        label: "linear_attention.sequence_table",
        binds: &[Params, Table, Sequences],
        optional: &[],
        has_tile: false,
    },
    Kernel {
        name: "token_gates",
        label: "linear_attention.token_gates",
        binds: &[Params, Gates, Decay, Beta, GateWeights],
        optional: &[],
        has_tile: false,
    },
    Kernel {
        name: "segment_state",
        label: "linear_attention.segment_state",
        binds: &[Params, K, V, StateOut, Table],
        optional: &[Table],
        has_tile: true,
    },
    Kernel {
        name: "segment_transition",
        label: "linear_attention.segment_transition",
        binds: &[Params, K, V, StateOut, Table],
        optional: &[Table],
        has_tile: true,
    },
    Kernel {
        name: "state_scan",
        label: "linear_attention.state_scan",
        binds: &[Params, StateIn, StateOut, Table],
        optional: &[StateIn, Table],
        has_tile: false,
    },
    Kernel {
        name: "transition_scan",
        label: "linear_attention.transition_scan",
        binds: &[Params, StateIn, StateOut, Table, Transitions],
        optional: &[StateIn, Table],
        has_tile: false,
    },
    Kernel {
        name: "segment_output",
        label: "linear_attention.segment_output",
        binds: &[Params, Q, K, V, O, StateIn, StateOut, Table],
        optional: &[StateIn, StateOut, Table],
        has_tile: true,
    },
    Kernel {
        name: "output_sum",
        label: "linear_attention.output_sum",
        binds: &[Params, O, Table, Partials],
        optional: &[Table],
        has_tile: false,
    },
    Kernel {
        name: "decode_step",
        label: "linear_attention.decode_step",
        binds: &[Params, Q, K, V, O, StateIn, StateOut, Sequences],
        optional: &[StateIn, StateOut],
        has_tile: true,
    },
];

impl Stage {
    /// Every stage, in the order of a pass.
    pub const ALL: [Stage; 11] = [
        Self::SequenceClaims,
        Self::SequenceConflicts,
        Self::SequenceTable,
        Self::TokenGates,
        Self::SegmentState,
        Self::SegmentTransition,
        Self::StateScan,
        Self::TransitionScan,
        Self::SegmentOutput,
        Self::OutputSum,
        Self::DecodeStep,
    ];

    /// The stage's one name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.kernel().name
    }

    /// Its row of the table.
    pub(crate) fn kernel(self) -> &'static Kernel {
        &KERNELS[self as usize]
    }

    /// The tensors that a variant of it binds.
    pub(crate) fn binds(self, config: &Config, layout: Layout, variant: Variant) -> Vec<Binding> {
        let kernel = self.kernel();
        let mut binds = kernel.binds.to_vec();
        if kernel.has_tile && !config.is_element_wise() && !self.is_of_matrices(layout) {
            binds.push(Weights);
        }
        if kernel.has_tile && config.gates().is_some() {
            binds.push(Gates);
        }
        if matches!(self, Self::SegmentState | Self::StateScan) && config.has_segment_decays() {
            binds.push(SegmentDecays);
        }
        if self == Self::SegmentOutput && layout.feature_blocks(config) > 1 {
            binds.retain(|binding| *binding != O);
            binds.push(Partials);
        }
        if variant.checks_keys {
            binds.push(KeyStatus);
        }
        binds
    }

    /// The fewest storage buffers that it binds, in a call without states whose sequences have
    /// equal lengths, and the most.
    pub(crate) fn storage_buffers(self, config: &Config, layout: Layout) -> [u32; 2] {
        let binds = self.binds(config, layout, Variant::default());
        let storage = binds.iter().filter(|binding| **binding != Params);
        let optional = storage.clone().filter(|binding| self.kernel().optional.contains(binding));
        let (most, optional) = (storage.count() as u32, optional.count() as u32);
        [most - optional, most]
    }

    /// True if the stage runs on matrix units in this layout.
    pub(crate) fn is_of_matrices(self, layout: Layout) -> bool {
        layout.subgroup_size().is_some()
            && matches!(self, Self::SegmentState | Self::SegmentTransition | Self::SegmentOutput)
    }

    /// The module of a variant of the stage. A binding that the call does not have is a private
    /// variable, which the module's constants keep the shader from touching.
    pub(crate) fn module(self, config: &Config, layout: Layout, variant: Variant) -> Module {
        let unbound = variant.unbound;
        let numbers = &numbers(self, config, layout, variant);
        let is_direct = layout.row_source == RowSource::Direct;
        let row_map = match (self, is_direct, config.is_element_wise()) {
            (Self::DecodeStep, true, _) => "chunk/direct_decode",
            (_, true, _) => "chunk/direct",
            (_, false, true) => "chunk/element_wise",
            (_, false, false) => "chunk/row_wise",
        };
        // decode_step has corrected values by the time they enter the state.
        let has_one_lane = (is_direct || layout.lanes(config) == 1) && self != Self::DecodeStep;
        let corrects = config.update_rule.beta().is_some();
        // decode_step has lanes of its own, and is bound by memory: neighbours have neighbouring
        // columns.
        let has_subgroups = layout.subgroup_sums && self != Self::DecodeStep;
        // A CPU adapter, which keeps tiles in memory, gains a twenty-fifth and compiles longer;
        // decode_step waits for memory.
        let has_factor =
            config.gates() == Some(Gating::PerHead) && !is_direct && self != Self::DecodeStep;
        let interfaces = [
            (
                "rule",
                match (config.gates(), corrects && has_one_lane) {
                    (None, _) => "rule/linear",
                    (Some(_), false) => "rule/gated",
                    (Some(_), true) => "rule/delta",
                },
            ),
            ("factor", if has_factor { "factor/head" } else { "factor/none" }),
            ("state_decay", if has_factor { "rule/decay_factor" } else { "rule/decay" }),
            (
                "gates",
                match config.gates() {
                    None => "gates/none",
                    Some(Gating::PerHead) => "gates/head",
                    Some(Gating::PerRow) => "gates/row",
                },
            ),
            ("stored_decay", "gates/forward_decay"),
            (
                "segment_decay",
                match config.gates().filter(|_| config.has_segment_decays()) {
                    None => "gates/segment_none",
                    Some(Gating::PerHead) => "gates/segment_head",
                    Some(Gating::PerRow) => "gates/segment_row",
                },
            ),
            (
                "correction",
                if corrects && !has_one_lane { "correction/chunk" } else { "correction/none" },
            ),
            (
                "kept",
                match config.gates() {
                    Some(Gating::PerRow) => "correction/kept_rows",
                    _ => "correction/kept_head",
                },
            ),
            ("lane", if has_subgroups { "lane/subgroup" } else { "lane" }),
            ("lane_sums", if has_subgroups { "lane_sums/subgroup" } else { "lane_sums/memory" }),
            ("row_map", row_map),
            ("chunk", if is_direct { row_map } else { "chunk/workgroup" }),
            ("decode_values", if corrects { "decode/corrected_values" } else { "decode/values" }),
            ("tile_io", if is_direct { "tile/looped" } else { "tile/unrolled" }),
            ("decode_item", if is_direct { "decode/direct" } else { "decode/workgroup" }),
            (
                "output",
                match layout.feature_blocks(config) {
                    1 => "output/rows",
                    _ => "output/partials",
                },
            ),
            (
                "rows",
                match (config.is_vec4() && !variant.has_unaligned_rows, config.dtype) {
                    // Their devices have f16.
                    (true, Dtype::F16) if self.is_of_matrices(layout) => "rows/f16_x4",
                    (true, Dtype::F32) => "rows/f32_x4",
                    (false, Dtype::F32) => "rows/f32_x1",
                    (true, Dtype::F16 | Dtype::Bf16) => "rows/half_x4",
                    (false, Dtype::F16 | Dtype::Bf16) => "rows/half_x1",
                },
            ),
            ("key_status", if variant.checks_keys { "status/keys" } else { "status/none" }),
            ("states", if config.is_vec4() { "states/x4" } else { "states/x1" }),
            ("custom_map", "map/no_custom"),
            ("matrices", if layout.rows == 8 { "matrix/size_8" } else { "matrix/size_16" }),
            (
                "token_decay",
                if config.update_rule.decay().is_some() {
                    "matrix/decayed"
                } else {
                    "matrix/undecayed"
                },
            ),
            ("chunk_values", if corrects { "matrix/corrected" } else { "matrix/uncorrected" }),
        ];
        let custom_map = config.custom_maps().next().map(|map| map.wgsl());
        let root = match self {
            Self::SegmentState if self.is_of_matrices(layout) => "matrix/segment_state",
            Self::SegmentTransition if self.is_of_matrices(layout) => "matrix/segment_transition",
            Self::SegmentOutput if self.is_of_matrices(layout) => "matrix/segment_output",
            _ => self.name(),
        };
        let mut module =
            Parts { root, interfaces: &interfaces, custom_map, numbers, unbound }.assemble();
        if variant.reads_only {
            module.read_only(&["q", "k", "v"]);
        }
        module
    }
}

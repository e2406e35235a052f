//! The resolved steps of a plan: which kernel, in which variant, on what.

use std::ops::Range;

use crate::kernel::assembler::Unbound;
use crate::kernel::numbers::{InitialState, Variant};
use crate::kernel::stage::{Binding, Stage};
use crate::plan::Plan;
use crate::problem::tensor::Tensor;

/// The states that a call has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "every combination there is")]
pub enum States {
    /// The initial state is zero, and the final state is dropped.
    #[default]
    None,
    /// An initial state is read, and the final state is dropped.
    Initial,
    /// The initial state is zero, and the final state is stored.
    Final,
    /// An initial state is read, and the final state is stored elsewhere.
    InitialAndFinal,
    /// The final state is stored where the initial state is: one binding for both, or a pool.
    InPlace,
}

/// The demands of a caller's bindings on the shaders.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// The caller's own work on the device writes `sequences`, so shaders have to check it.
    pub(crate) is_untrusted: bool,
    /// q, k and v have memory in common.
    pub(crate) reads_only: bool,
    /// A status of keys is bound.
    pub(crate) checks_keys: bool,
}

/// The source of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The uniform.
    Params,
    /// A tensor of the caller's; a dummy where it is not bound.
    Tensor(Tensor),
    /// Bytes of scratch.
    Scratch(Range<u64>),
    /// Entries that the host knows: `cu_seqlens` and, where rows are padded, the state of each.
    Entries,
    /// A buffer that no shader touches.
    Dummy,
}

/// A dispatch, resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) stage: Stage,
    pub(crate) workgroups: [u32; 3],
    pub(crate) variant: Variant,
    pub(crate) sources: Vec<(Binding, Source)>,
}

impl Step {
    /// Storage buffers that it binds.
    pub(crate) fn storage_buffers(&self) -> u32 {
        self.sources.iter().filter(|(binding, _)| *binding != Binding::Params).count() as u32
    }
}

impl States {
    fn has_initial(self) -> bool {
        matches!(self, Self::Initial | Self::InitialAndFinal | Self::InPlace)
    }

    fn has_final(self) -> bool {
        matches!(self, Self::Final | Self::InitialAndFinal | Self::InPlace)
    }
}

impl Plan {
    /// The steps of a call with these states.
    pub(crate) fn steps(&self, states: States, memory: Memory) -> Vec<Step> {
        let states = if self.shape().slots.is_some() { States::InPlace } else { states };
        let step = |dispatch: &super::Dispatch| {
            let (stage, workgroups) = (dispatch.stage, dispatch.workgroups);
            let variant = self.variant(stage, states, memory);
            let binds = stage.binds(self.config(), self.layout(), variant);
            let sources =
                binds.into_iter().map(|binding| (binding, self.source(stage, binding, states)));
            let is_unbound = |(binding, source): &(Binding, Source)| {
                *source == Source::Dummy && stage.kernel().optional.contains(binding)
            };
            let (unbound, sources): (Vec<_>, Vec<_>) = sources.partition(is_unbound);
            let unbound = Unbound::new(unbound.into_iter().map(|(binding, _)| binding as u32));
            let variant = Variant { unbound, ..variant };
            Step { stage, workgroups, variant, sources }
        };
        self.all_dispatches(memory.is_untrusted).map(step).collect()
    }

    /// The WGSL module from which a stage of this plan is compiled with these states; `None` where
    /// the plan has no such stage. For tools that inspect shaders.
    #[must_use]
    pub fn wgsl(&self, stage: Stage, states: States) -> Option<String> {
        let memory = Memory { is_untrusted: self.reads_sequences(), ..Memory::default() };
        let step = self.steps(states, memory).into_iter().find(|step| step.stage == stage)?;
        Some(stage.module(self.config(), self.layout(), step.variant).wgsl)
    }

    /// True for a stage that reads and writes the states of sequences rather than of segments.
    fn is_last(stage: Stage) -> bool {
        matches!(stage, Stage::SegmentOutput | Stage::DecodeStep)
    }

    fn variant(&self, stage: Stage, states: States, memory: Memory) -> Variant {
        let is_last = Self::is_last(stage);
        let segment_states = stage == Stage::SegmentOutput && self.has_segment_states();
        let initial_state = match stage {
            Stage::SegmentState
            | Stage::SegmentTransition
            | Stage::SequenceClaims
            | Stage::SequenceConflicts
            | Stage::SequenceTable
            | Stage::TokenGates
            | Stage::OutputSum => InitialState::Zero,
            _ if segment_states => InitialState::Given,
            _ if states == States::InPlace && is_last => InitialState::InPlace,
            _ if states.has_initial() => InitialState::Given,
            _ => InitialState::Zero,
        };
        // The host numbers the states of padded rows by slots, since there is padding between them.
        let lengths = self.shape().has_lengths();
        let slots = self.shape().slots.is_some() || self.shape().is_padded();
        let has_rows = stage.kernel().has_tile || stage == Stage::OutputSum;
        // The others only ask whether there is a table.
        let checks_words = matches!(stage, Stage::SequenceClaims | Stage::SequenceConflicts);
        let reads_words = checks_words || matches!(stage, Stage::SequenceTable | Stage::DecodeStep);
        Variant {
            initial_state,
            segment_states,
            final_state: is_last && states.has_final(),
            has_lengths: if reads_words { lengths } else { self.has_table() },
            has_gaps: stage == Stage::DecodeStep && self.shape().is_padded(),
            has_slots: reads_words && slots,
            has_sources: reads_words && self.shape().has_sources,
            checkpoints: match stage {
                Stage::SequenceTable | Stage::SegmentOutput => self.shape().checkpoints,
                _ => 0,
            },
            is_untrusted: reads_words && memory.is_untrusted,
            has_one_head: stage == Stage::SegmentOutput && self.head_tile() == 1,
            rows_ahead: self.tuning().rows_ahead,
            has_batch_strides: has_rows && !self.is_flat(),
            has_unaligned_rows: has_rows && self.config().is_vec4() && !self.has_vec4_rows(),
            reads_only: stage.kernel().has_tile && memory.reads_only,
            // Either of them sees every key.
            checks_keys: is_last && memory.checks_keys,
            decode: self.decode().filter(|_| stage == Stage::DecodeStep),
            unbound: Unbound::default(),
        }
    }

    fn source(&self, stage: Stage, binding: Binding, states: States) -> Source {
        let scratch = |range: Range<u64>| {
            if range.is_empty() { Source::Dummy } else { Source::Scratch(range) }
        };
        let is_last = Self::is_last(stage);
        match binding {
            Binding::Params => Source::Params,
            Binding::Q => Source::Tensor(Tensor::Q),
            Binding::K => Source::Tensor(Tensor::K),
            Binding::V => Source::Tensor(Tensor::V),
            Binding::O => Source::Tensor(Tensor::O),
            Binding::Weights => Source::Tensor(Tensor::Weights),
            Binding::Table => scratch(self.scratch().table.clone()),
            Binding::Partials => scratch(self.scratch().partials.clone()),
            Binding::Gates => scratch(self.scratch().gates.clone()),
            Binding::SegmentDecays => scratch(self.scratch().decays.clone()),
            Binding::Decay => Source::Tensor(Tensor::Decay),
            Binding::Beta => Source::Tensor(Tensor::Beta),
            Binding::GateWeights => Source::Tensor(Tensor::GateWeights),
            Binding::KeyStatus => Source::Tensor(Tensor::KeyStatus),
            Binding::Sequences if self.reads_sequences() => Source::Tensor(Tensor::Sequences),
            Binding::Sequences if self.shape().has_lengths() => Source::Entries,
            Binding::Sequences => Source::Dummy,
            // segment_state stores the sum of each segment in scratch, state_scan turns it into the
            // state before the segment, and segment_output reads that.
            Binding::StateIn if stage == Stage::SegmentOutput && self.has_segment_states() => {
                scratch(self.scratch().states.clone())
            }
            // Read where it is written, through the other binding.
            Binding::StateIn if is_last && states == States::InPlace => Source::Dummy,
            Binding::StateIn if states == States::InPlace => Source::Tensor(self.final_state()),
            Binding::StateIn if states.has_initial() => Source::Tensor(Tensor::InitialState),
            Binding::StateIn => Source::Dummy,
            Binding::Transitions => scratch(self.scratch().transitions.clone()),
            Binding::StateOut if stage == Stage::SegmentTransition => {
                scratch(self.scratch().transitions.clone())
            }
            Binding::StateOut if !is_last => scratch(self.scratch().states.clone()),
            Binding::StateOut if states.has_final() => Source::Tensor(self.final_state()),
            Binding::StateOut => Source::Dummy,
        }
    }
}

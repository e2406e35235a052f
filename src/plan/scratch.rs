//! The ranges of scratch of the tensors between the stages.

use std::ops::Range;

use crate::error::PlanError;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Gating;

/// Bytes of a sequence's entry in the table that `sequence_table` writes.
const TABLE_ENTRY_SIZE: u64 = 20;

/// The ranges of scratch, in bytes; empty where the plan has no such tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scratch {
    /// The states of segments, first: `[segments,state]`.
    pub(crate) states: Range<u64>,
    /// The factors of the state before segments, less 1: `[segments,E,1 or F]`.
    pub(crate) decays: Range<u64>,
    /// The matrices of segments of a delta rule: `[segments,E,F,F]`.
    pub(crate) transitions: Range<u64>,
    /// The checked table of sequences.
    pub(crate) table: Range<u64>,
    /// Partial sums of o, where F has several blocks.
    pub(crate) partials: Range<u64>,
    /// Decays and betas of all tokens.
    pub(crate) gates: Range<u64>,
    /// All of it.
    pub(crate) size: u64,
}

impl Scratch {
    /// The parts by name.
    pub(crate) fn parts(&self) -> [(&'static str, &Range<u64>); 6] {
        [
            ("scratch", &self.states),
            ("decays", &self.decays),
            ("transitions", &self.transitions),
            ("table", &self.table),
            ("partials", &self.partials),
            ("gates", &self.gates),
        ]
    }

    /// Gives each of them its range, where the plan has it.
    pub(super) fn place(plan: &Plan, limits: &wgpu::Limits) -> Result<Self, PlanError> {
        let align = u64::from(limits.min_storage_buffer_offset_alignment).max(16);
        let mut end = 0u64;
        let mut place = |bytes: u64| {
            let begin = end.next_multiple_of(align);
            end = begin + bytes;
            begin..end
        };
        let (config, shape) = (plan.config(), plan.shape());
        let mut placed = Self::default();
        let value_heads = u64::from(shape.value_heads);
        if plan.has_segment_states() {
            let len = u64::from(plan.state_len);
            placed.states = place(scratch(F32_SIZE * plan.segment_capacity(), len)?);
        }
        if plan.has_segment_decays() {
            let len = match config.gates() {
                Some(Gating::PerRow) => u64::from(config.features().next_multiple_of(4)),
                _ => 1,
            };
            placed.decays = place(scratch(F32_SIZE * plan.segment_capacity(), len * value_heads)?);
        }
        if plan.has_transitions() {
            let matrix = u64::from(config.features()) * u64::from(config.features());
            let matrices = plan.segment_capacity() * value_heads;
            placed.transitions = place(scratch(F32_SIZE * matrix, matrices)?);
        }
        if plan.has_table() {
            let sequences = u64::from(shape.entries());
            let entries = sequences + 1 + sequences * u64::from(shape.checkpoints);
            placed.table = place(scratch(TABLE_ENTRY_SIZE, entries)?);
        }
        if plan.feature_blocks() > 1 && !plan.is_decode() {
            // A row has the vec4s of q' mu, and one more for q' . nu and the query's row scale.
            let is_scaled = config.scales_queries();
            let len = 4 * (u64::from(config.value_dim.div_ceil(4)) + u64::from(is_scaled));
            let rows = plan.o_rows() * u64::from(plan.feature_blocks());
            placed.partials = place(scratch(F32_SIZE * len, rows)?);
        }
        if config.gates().is_some() {
            let rows = plan.total_tokens() * value_heads;
            placed.gates = place(scratch(F32_SIZE * u64::from(config.gate_row()), rows)?);
        }
        placed.size = end;
        Ok(placed)
    }
}

/// Bytes of `len` elements of `size` bytes, as far as 32 bits index them.
fn scratch(size: u64, len: u64) -> Result<u64, PlanError> {
    let bytes = size.checked_mul(len).filter(|bytes| bytes / F32_SIZE <= u64::from(u32::MAX));
    bytes.ok_or(PlanError::TooManyElements {
        what: "scratch",
        actual: len.saturating_mul(size) / F32_SIZE,
    })
}

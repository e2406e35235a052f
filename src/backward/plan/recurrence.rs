//! The recurrence: blocks of tokens, and workgroups that share a head.

use crate::backward::plan::scratch::{Placer, Scratch};
use crate::error::PlanError;
use crate::kernel::gradient::gradient_columns;
use crate::plan::Plan;

/// The numbers of the recurrence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Recurrence {
    /// Tokens of a block, and blocks of the longest sequence.
    pub(crate) block: u32,
    pub(crate) blocks: u32,
    /// Workgroups that share a value head of a sequence, each with some of its columns.
    pub(crate) value_blocks: u32,
}

/// Scratch that sums over columns may take beside an equal share of the rest.
pub(super) const COLUMN_SUMS_BYTES: u64 = 512 << 20;

impl Recurrence {
    /// Value blocks, and scratch with room for them: as many as bring the workgroups to those of
    /// the tuning, where the device and [`BackwardPlan::scratch_size`] allow it.
    ///
    /// [`BackwardPlan::scratch_size`]: crate::backward::plan::BackwardPlan::scratch_size
    pub(super) fn new(
        forward: &Plan,
        longest: u32,
        piece: u32,
        limits: &wgpu::Limits,
    ) -> Result<(Self, Scratch), PlanError> {
        let block = longest.isqrt().max(1);
        let mut found = Self { block, blocks: longest.div_ceil(block), value_blocks: 1 };
        let (config, shape) = (forward.config(), forward.shape());
        let whole = found.place(forward, piece, limits)?;
        let most = whole.size.saturating_add(whole.size.max(COLUMN_SUMS_BYTES));
        let items = u64::from(shape.sequences()) * u64::from(shape.value_heads);
        let chunks = config.value_dim.div_ceil(gradient_columns(config));
        let wanted = u64::from(forward.tuning().workgroups).div_ceil(items.max(1));
        let mut value_blocks = wanted.min(chunks.into()) as u32;
        while value_blocks > 1 {
            // As few as have no more columns each, so that none is empty.
            value_blocks = chunks.div_ceil(chunks.div_ceil(value_blocks));
            found.value_blocks = value_blocks;
            match found.place(forward, piece, limits) {
                Ok(scratch) if scratch.size <= most => return Ok((found, scratch)),
                _ => value_blocks -= 1,
            }
        }
        Ok((Self { value_blocks: 1, ..found }, whole))
    }

    pub(super) fn place(
        self,
        forward: &Plan,
        piece: u32,
        limits: &wgpu::Limits,
    ) -> Result<Scratch, PlanError> {
        let (config, shape) = (forward.config(), forward.shape());
        let [block, blocks, value_blocks] =
            [self.block, self.blocks, self.value_blocks].map(u64::from);
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let row = u64::from(config.features().next_multiple_of(4));
        let (e, h) = (u64::from(shape.value_heads), u64::from(shape.output_heads()));
        let (f, v) = (u64::from(config.features()), u64::from(config.value_dim));
        let has_gates = config.gates().is_some();
        let gate_row = if has_gates { u64::from(config.gate_row()) } else { 0 };
        let nu = if config.is_normalized() { f } else { 0 };
        let (mu, state) = (f * v, f * v + nu);
        // As shaders/gradient/states.wgsl has it.
        let kept = block + blocks;
        let of_block = (1 + kept) * nu + 2 * f;
        let of_head = kept
            .checked_mul(mu)
            .and_then(|states| states.checked_add((block + 1) * v))
            .and_then(|len| len.checked_add(value_blocks * of_block));
        // The features and gates, and what each value block adds to the gradients by them.
        let parts = if value_blocks > 1 { 1 + value_blocks } else { 1 };
        let items = u64::from(shape.sequences()) * e;
        let states = of_head
            .and_then(|len| items.checked_mul(len))
            .and_then(|len| len.checked_add(items.checked_mul(2 * state)?));
        let mut placer = Placer::new(limits);
        let mut placed = Scratch {
            keys: placer.place("keys", (tokens * e).checked_mul(parts * row))?,
            queries: placer.place("queries", (tokens * h).checked_mul(parts * (row + 4)))?,
            ..Scratch::default()
        };
        placed.place_maps(&mut placer, forward, piece)?;
        placed.gates = placer.place("gates", (tokens * e).checked_mul(parts * gate_row))?;
        placed.states = placer.place("states", states)?;
        placed.size = placer.size()?;
        Ok(placed)
    }
}

//! The recurrence: blocks of tokens, and workgroups that share a head.

use std::ops::Range;

use crate::backward::plan::scratch::{Placer, Scratch};
use crate::error::PlanError;
use crate::kernel::gradient::{gradient_columns, gradient_threads};
use crate::plan::Plan;

/// The numbers of the recurrence.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Recurrence {
    /// Tokens of a block, and blocks of the longest sequence.
    pub(crate) block: u32,
    pub(crate) blocks: u32,
    /// Workgroups that share a value head of a sequence, each with some of its columns.
    pub(crate) value_blocks: u32,
    /// Steps, of which a dispatch has at most so many: see shaders/gradient_recurrence.wgsl.
    pub(crate) steps: u32,
    pub(crate) steps_of_dispatch: u32,
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
        let (config, shape) = (forward.config(), forward.shape());
        let limit = forward.tuning().max_loop_iterations;
        let of_token = iterations_of_token(forward);
        // Half of them are for the rest of a step.
        let longest_block = u64::from(limit) / 2 / of_token;
        if longest_block == 0 {
            let (what, required, actual) = ("the backward pass of a token", limit / 2, of_token);
            return Err(PlanError::Iterations { what, required, actual });
        }
        let longest_block = u32::try_from(longest_block).unwrap_or(u32::MAX);
        let block = longest.isqrt().clamp(1, longest_block);
        let blocks = longest.div_ceil(block);
        // Tokens of no sequence are shared out to as many steps.
        let steps = (2 * blocks).max(2 * (shape.batch * shape.seq_len).isqrt()).max(1);
        let of_step = (u64::from(block) + 4) * of_token;
        let steps_of_dispatch =
            u32::try_from(u64::from(limit) / of_step).unwrap_or(u32::MAX).max(1);
        let mut found = Self { block, blocks, value_blocks: 1, steps, steps_of_dispatch };
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

    /// The steps of each dispatch.
    pub(crate) fn dispatches(self) -> impl Iterator<Item = Range<u32>> {
        let Self { steps, steps_of_dispatch, .. } = self;
        let len = steps_of_dispatch.max(1);
        (0..steps.div_ceil(len))
            .map(move |i| i * len..steps.min(i.saturating_add(1).saturating_mul(len)))
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

/// An upper bound of the loop iterations of an invocation for a token of a block, in both
/// directions, where a workgroup has all columns; or for four tokens that are cleared. Every loop is
/// counted once more for its last test.
fn iterations_of_token(forward: &Plan) -> u64 {
    let config = forward.config();
    let columns = u64::from(gradient_columns(config));
    let threads = u64::from(gradient_threads(config));
    let features = u64::from(config.features());
    let lanes = (threads / columns).max(1);
    let rows = features.div_ceil(lanes) + 1;
    let chunks = u64::from(config.value_dim).div_ceil(columns);
    let of_thread = features.div_ceil(threads) + 1;
    // Sums over the columns of a thread's features, and over the rows of its columns.
    let of_features = of_thread * (chunks * (columns + 2) + 2);
    let of_columns = chunks * (rows + lanes + 2) + 1;
    let enter = 2 * of_columns + of_thread;
    let read = 2 * (features + 1) + of_features + of_columns + 2 * of_thread;
    let leave = of_features + 2 * of_columns + chunks * columns + features + 3 * of_thread;
    let group = u64::from(forward.shape().value_group());
    2 * enter + leave + group * (read + 4 * of_thread + 4) + 8 * of_thread + 16
}

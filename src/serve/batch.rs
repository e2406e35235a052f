//! The sequences of a call, as the host writes them.

use wgpu::{BufferBinding, BufferUsages};

use crate::device::buffers::init_buffer;
use crate::error::{BindError, PoolError};
use crate::plan::Plan;
use crate::problem::shape::Shape;
use crate::serve::pool::StatePool;
use crate::serve::slots::Slot;

/// The sequences of a call, written by the host before each run.
///
/// It is made for a plan and a pool and bound once, as [`Sequences::Host`]. [`Batch::write`] then
/// checks and uploads the entries of each step, so that the shaders need not check them. A caller
/// whose own work on the device chooses the sequences binds its own buffer instead, as
/// [`Sequences::Device`].
///
/// [`Sequences::Host`]: crate::serve::Sequences::Host
/// [`Sequences::Device`]: crate::serve::Sequences::Device
#[derive(Debug)]
pub struct Batch {
    /// Written by this batch alone.
    buffer: wgpu::Buffer,
    shape: Shape,
    pool: u64,
    pool_buffer: wgpu::Buffer,
    pool_offset: u64,
}

/// A sequence of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "an entry has a slot and tokens and no more")]
pub struct Entry {
    /// The slot of its state.
    pub slot: Slot,
    /// Its tokens in this step; with a shape that is not packed, T.
    pub tokens: u32,
}

impl Batch {
    /// An empty batch for a plan whose shape has the slots of this pool.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotPooled`] for a plan without slots, [`PoolError::Pool`] where the pool has
    /// other slots than the plan, or no memory for the buffer.
    pub fn new(plan: &Plan, pool: &StatePool) -> Result<Self, PoolError> {
        let shape = plan.shape();
        let slots = shape.slots.ok_or(PoolError::NotPooled)?;
        pool.check_plan(plan, slots)?;
        let mut status_and_words = vec![0];
        status_and_words.extend(words(shape, &[], &[]));
        let binding = pool.binding();
        Ok(Self {
            buffer: init_buffer(
                pool.device(),
                "linear_attention.sequences",
                bytemuck::cast_slice(&status_and_words),
                BufferUsages::STORAGE | BufferUsages::COPY_DST,
            )?,
            shape: shape.clone(),
            pool: pool.id(),
            pool_buffer: binding.buffer.clone(),
            pool_offset: binding.offset,
        })
    }

    /// Checks that the batch belongs to the plan and the pool that are bound with it.
    pub(crate) fn check(
        &self,
        plan: &Plan,
        pool: Option<&BufferBinding<'_>>,
    ) -> Result<(), BindError> {
        if &self.shape != plan.shape() {
            return Err(BindError::Batch { what: "plan" });
        }
        let is_pool = |pool: &BufferBinding<'_>| {
            pool.buffer == &self.pool_buffer && pool.offset == self.pool_offset
        };
        if pool.is_some_and(is_pool) { Ok(()) } else { Err(BindError::Batch { what: "pool" }) }
    }

    pub(crate) fn binding(&self) -> BufferBinding<'_> {
        self.buffer.as_entire_buffer_binding()
    }

    /// Writes the sequences of the next submission, in the order of their tokens along T or, in a
    /// shape that is not packed, along the batch. Where there are fewer than the shape has, their
    /// rows of o are zero and no state but theirs is touched.
    ///
    /// Nothing waits: the queue writes before its next submission begins, so submit one step
    /// before you write the next.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`], [`PoolError::Duplicate`], [`PoolError::Entries`] where there are
    /// more sequences or tokens than the shape has, or [`PoolError::Pool`] where it was made for
    /// another pool. Nothing is written then.
    pub fn write(
        &self,
        queue: &wgpu::Queue,
        pool: &StatePool,
        entries: &[Entry],
    ) -> Result<(), PoolError> {
        if pool.id() != self.pool {
            let required = "the one that the batch was made for".to_owned();
            let actual = "another".to_owned();
            return Err(PoolError::Pool { what: "pool", required, actual });
        }
        let (sequences, tokens) = (self.shape.sequences(), self.shape.seq_len);
        let (max_len, is_packed) = (self.shape.max_len(), self.shape.is_packed());
        let slots: Vec<Slot> = entries.iter().map(|entry| entry.slot).collect();
        let slots = pool.indices(&slots)?;
        let refuse = |what, required: u32, actual: u64| {
            Err(PoolError::Entries { what, required: required.into(), actual })
        };
        if entries.len() > sequences as usize {
            return refuse("sequences", sequences, entries.len() as u64);
        }
        for entry in entries {
            let is_wrong = if is_packed { entry.tokens > max_len } else { entry.tokens != tokens };
            if is_wrong {
                return refuse("tokens of a sequence", max_len, entry.tokens.into());
            }
        }
        let all = entries.iter().map(|entry| u64::from(entry.tokens)).sum();
        if is_packed && all > u64::from(tokens) {
            return refuse("tokens", tokens, all);
        }
        let lengths: Vec<u32> = entries.iter().map(|entry| entry.tokens).collect();
        let words = words(&self.shape, &lengths, &slots);
        // The words follow the status, which the shaders write.
        queue.write_buffer(&self.buffer, 4, bytemuck::cast_slice(&words));
        Ok(())
    }
}

/// `cu_seqlens` where the shape is packed, then slots; entries beyond these are not in use.
fn words(shape: &Shape, lengths: &[u32], slots: &[u32]) -> Vec<u32> {
    let n = shape.sequences() as usize;
    let mut words = Vec::with_capacity(2 * n + 1);
    if shape.is_packed() {
        words.push(0);
        let ends = lengths.iter().scan(0u32, |end, len| {
            // At most `tokens`, as `write` has checked.
            *end = end.saturating_add(*len);
            Some(*end)
        });
        words.extend(ends);
        let end = words.last().copied().unwrap_or(0);
        words.resize(n + 1, end);
    }
    let begin = words.len();
    words.extend_from_slice(slots);
    words.resize(begin + n, u32::MAX);
    words
}

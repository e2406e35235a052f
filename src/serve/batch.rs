//! The sequences of a call, as the host writes them.

use std::collections::HashMap;

use wgpu::{BufferBinding, BufferUsages};

use crate::device::buffers::{init_buffer, staging_buffer, write_buffer};
use crate::error::{BindError, PoolError};
use crate::plan::Plan;
use crate::problem::entries::{NO_SLOT, cu_seqlens, of_entries};
use crate::problem::shape::{Packing, Shape};
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

const LABEL: &str = "linear_attention.sequences";

/// Bytes of the status, which the shaders write, before the words.
const AFTER_STATUS: u64 = 4;

/// A sequence of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// The slot to which its state is written.
    pub slot: Slot,
    /// Its tokens in this step; with a shape that is not packed, T, or where rows are padded the
    /// valid ones of its row.
    pub tokens: u32,
    /// The slot from which its state is read, where it is another: see
    /// [`Shape::with_sources`](crate::Shape::with_sources).
    pub source: Option<Slot>,
}

impl Entry {
    /// A sequence of `tokens` tokens, whose state is updated in its slot.
    #[must_use]
    pub fn new(slot: Slot, tokens: u32) -> Self {
        Self { slot, tokens, source: None }
    }

    /// The same with its state read from another slot, which stays as it was.
    #[must_use]
    pub fn with_source(self, source: Slot) -> Self {
        Self { source: Some(source), ..self }
    }
}

/// A state to store on the way: see [`Shape::with_checkpoints`](crate::Shape::with_checkpoints).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a literal names all three, and there are no more")]
pub struct Checkpoint {
    /// The sequence, as its entry's index.
    pub sequence: u32,
    /// The tokens of the sequence in this step after which its state is stored: 1 to all.
    pub tokens: u32,
    /// The slot that it goes to.
    pub slot: Slot,
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
        status_and_words.extend(words(shape, &Checked::default()));
        let binding = pool.binding();
        Ok(Self {
            buffer: init_buffer(
                pool.device(),
                LABEL,
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
    /// Nothing waits: the queue writes before its next submission begins, so submit one step before
    /// you write the next, or record both by [`Batch::record_write`]: of two that are written
    /// before one submission the second would hold for both steps.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`], [`PoolError::Duplicate`], [`PoolError::Entries`] where there are
    /// more sequences or tokens than the shape has, [`PoolError::Pool`] where it was made for
    /// another pool, or [`PoolError::Device`] where the queue refuses to write. Nothing is written
    /// then.
    pub fn write(
        &self,
        queue: &wgpu::Queue,
        pool: &StatePool,
        entries: &[Entry],
    ) -> Result<(), PoolError> {
        self.write_with_checkpoints(queue, pool, entries, &[])
    }

    /// The same with states of some sequences stored on the way, in any order. A rollback to one of
    /// them is a call that reads its slot.
    ///
    /// # Errors
    ///
    /// As [`Batch::write`]; [`PoolError::Duplicate`] where a slot is written twice,
    /// [`PoolError::Source`] where one sequence reads what another writes,
    /// [`PoolError::NotInPlan`], or [`PoolError::Entries`] where a checkpoint is of no sequence or
    /// token of the step, or a sequence has more of them than the shape. Nothing is written then.
    pub fn write_with_checkpoints(
        &self,
        queue: &wgpu::Queue,
        pool: &StatePool,
        entries: &[Entry],
        checkpoints: &[Checkpoint],
    ) -> Result<(), PoolError> {
        let words = self.words(pool, entries, checkpoints)?;
        let bytes = bytemuck::cast_slice(&words);
        Ok(write_buffer(pool.device(), queue, (LABEL, &self.buffer, AFTER_STATUS), bytes)?)
    }

    /// The same, recorded where the encoder stands: calls that are recorded after it have these
    /// entries, so that one submission may hold several steps, each with its own. It takes a buffer
    /// for the entries, which [`Batch::write`] does not.
    ///
    /// # Errors
    ///
    /// As [`Batch::write_with_checkpoints`]; or no memory for the entries. Nothing is recorded
    /// then.
    pub fn record_write(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        pool: &StatePool,
        entries: &[Entry],
        checkpoints: &[Checkpoint],
    ) -> Result<(), PoolError> {
        let words = self.words(pool, entries, checkpoints)?;
        let label = "linear_attention.entries";
        let bytes = bytemuck::cast_slice(&words);
        let entries = staging_buffer(pool.device(), label, bytes)?;
        let size = bytes.len() as u64;
        encoder.copy_buffer_to_buffer(&entries, 0, &self.buffer, AFTER_STATUS, size);
        Ok(())
    }

    /// The words of entries that the plan has room for and the pool the states.
    fn words(
        &self,
        pool: &StatePool,
        entries: &[Entry],
        checkpoints: &[Checkpoint],
    ) -> Result<Vec<u32>, PoolError> {
        if pool.id() != self.pool {
            let required = "the one that the batch was made for".to_owned();
            let actual = "another".to_owned();
            return Err(PoolError::Pool { what: "pool", required, actual });
        }
        let checked = self.check_slots(pool, entries, checkpoints)?;
        check_counts(&self.shape, entries)?;
        Ok(words(&self.shape, &checked))
    }
}

/// Refuses more sequences or tokens than a shape has.
pub(crate) fn check_counts(shape: &Shape, entries: &[Entry]) -> Result<(), PoolError> {
    let refuse = |what, required: u32, actual: u64| {
        Err(PoolError::Entries { what, required: required.into(), actual })
    };
    if entries.len() > shape.sequences() as usize {
        return refuse("sequences", shape.sequences(), entries.len() as u64);
    }
    for (n, entry) in entries.iter().enumerate() {
        let tokens = entry.tokens;
        let (required, is_wrong) = match &shape.packing {
            Packing::Equal => (shape.seq_len, tokens != shape.seq_len),
            Packing::Padded(valid) => {
                let valid = valid.get(n).map_or(0, |range| range.len() as u32);
                (valid, tokens != valid)
            }
            _ => (shape.max_len(), tokens > shape.max_len()),
        };
        if is_wrong {
            return refuse("tokens of a sequence", required, tokens.into());
        }
    }
    let all = entries.iter().map(|entry| u64::from(entry.tokens)).sum();
    if shape.is_packed() && all > u64::from(shape.seq_len) {
        return refuse("tokens", shape.seq_len, all);
    }
    Ok(())
}

impl Batch {
    /// The indices of all slots: each written once, and read by no other sequence where it is
    /// written.
    fn check_slots(
        &self,
        pool: &StatePool,
        entries: &[Entry],
        checkpoints: &[Checkpoint],
    ) -> Result<Checked, PoolError> {
        let has_source = entries.iter().any(|entry| entry.source.is_some());
        if has_source && !self.shape.has_sources {
            return Err(PoolError::NotInPlan { what: "sources" });
        }
        if !checkpoints.is_empty() && self.shape.checkpoints == 0 {
            return Err(PoolError::NotInPlan { what: "checkpoints" });
        }
        let written = entries.iter().map(|entry| entry.slot);
        let written: Vec<Slot> =
            written.chain(checkpoints.iter().map(|checkpoint| checkpoint.slot)).collect();
        let written = pool.indices(&written)?;
        let (slots, stored) = written.split_at(entries.len());
        let mut of_sequences = vec![Vec::new(); entries.len()];
        let mut owners: HashMap<u32, usize> =
            slots.iter().enumerate().map(|(n, slot)| (*slot, n)).collect();
        for (checkpoint, slot) in checkpoints.iter().zip(stored) {
            let Checkpoint { sequence, tokens, .. } = *checkpoint;
            let refuse = |what, required: u32, actual: u32| {
                Err(PoolError::Entries { what, required: required.into(), actual: actual.into() })
            };
            let Some(entry) = entries.get(sequence as usize) else {
                return refuse("sequence of a checkpoint", entries.len() as u32, sequence);
            };
            if !(1..=entry.tokens).contains(&tokens) {
                return refuse("tokens of a checkpoint", entry.tokens, tokens);
            }
            let of_sequence = &mut of_sequences[sequence as usize];
            of_sequence.push([tokens, *slot]);
            if of_sequence.len() > self.shape.checkpoints as usize {
                let most = self.shape.checkpoints;
                return refuse("checkpoints of a sequence", most, of_sequence.len() as u32);
            }
            owners.insert(*slot, sequence as usize);
        }
        let source = |(n, entry): (usize, &Entry)| {
            let index = pool.index(entry.source.unwrap_or(entry.slot))?;
            match owners.get(&index) {
                Some(owner) if *owner != n => Err(PoolError::Source { index }),
                _ => Ok(index),
            }
        };
        Ok(Checked {
            lengths: entries.iter().map(|entry| entry.tokens).collect(),
            slots: slots.to_vec(),
            sources: entries.iter().enumerate().map(source).collect::<Result<_, _>>()?,
            checkpoints: of_sequences,
        })
    }
}

/// Entries and checkpoints that were checked, as indices of slots.
#[derive(Debug, Default)]
struct Checked {
    lengths: Vec<u32>,
    slots: Vec<u32>,
    sources: Vec<u32>,
    /// Of each sequence, tokens and slot.
    checkpoints: Vec<Vec<[u32; 2]>>,
}

/// `cu_seqlens` where lengths differ, then slots, the slots that are read where the shape has
/// those, and checkpoints; entries beyond these are not in use.
fn words(shape: &Shape, checked: &Checked) -> Vec<u32> {
    let Checked { lengths, slots, sources, checkpoints } = checked;
    let (n, count) = (shape.entries() as usize, shape.checkpoints as usize);
    let mut words = Vec::with_capacity((3 + 2 * count) * n + 1);
    if shape.has_lengths() {
        words.extend(cu_seqlens(shape, lengths));
    }
    words.extend(of_entries(shape, slots.iter().copied(), &NO_SLOT));
    if shape.has_sources {
        words.extend(of_entries(shape, sources.iter().copied(), &NO_SLOT));
    }
    for of_entry in of_entries(shape, checkpoints.iter().map(Vec::as_slice), &&[][..]) {
        let begin = words.len();
        words.extend(of_entry.iter().flatten());
        // After no token, a checkpoint is none.
        words.resize(begin + 2 * count, 0);
    }
    words
}

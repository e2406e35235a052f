//! What a call is told about its sequences: the buffer, written from the host.

use wgpu::{BufferBinding, BufferUsages};

use crate::pipeline::scoped;
use crate::{Error, Plan, PoolError, Readback, Slot, StatePool};

/// The buffer to bind as [`Tensors::sequences`](crate::Tensors::sequences), for callers whose
/// host knows which sequences take part in a step.
///
/// It is made and bound once for a plan; [`Batch::write`] then says before each step which
/// sequences there are. A caller whose own work on the device decides binds a buffer of its own.
#[derive(Debug)]
pub struct Batch {
    buffer: wgpu::Buffer,
    sequences: u32,
    tokens: u32,
    max_len: u32,
    is_packed: bool,
    slots: Option<u32>,
}

/// A sequence of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a call is told this much and no more")]
pub struct Entry {
    /// Where its state is.
    pub slot: Slot,
    /// Its tokens in this step; with a shape that is not packed, T.
    pub tokens: u32,
}

impl Batch {
    /// For a plan whose shape has slots. It begins with no sequence.
    ///
    /// # Errors
    ///
    /// [`PoolError::NotPooled`] for a plan without slots, or no memory for the buffer.
    pub fn new(device: &wgpu::Device, plan: &Plan) -> Result<Self, PoolError> {
        let shape = plan.shape();
        if shape.slots.is_none() {
            return Err(PoolError::NotPooled);
        }
        let mut batch = Self {
            buffer: scoped(device, || {
                device.create_buffer(&wgpu::BufferDescriptor {
                    label: Some("linear_attention.sequences"),
                    size: plan.sequences_size(),
                    usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                    mapped_at_creation: true,
                })
            })
            .map_err(|message| PoolError::Device { message })?,
            sequences: shape.sequences(),
            tokens: shape.seq_len,
            max_len: shape.max_len(),
            is_packed: shape.is_packed(),
            slots: shape.slots,
        };
        let mut words = vec![0];
        words.extend(batch.words(&[], &[]));
        batch.fill(&words)?;
        Ok(batch)
    }

    fn fill(&mut self, words: &[u32]) -> Result<(), PoolError> {
        self.buffer
            .get_mapped_range_mut(..)
            .map_err(|error| PoolError::Device { message: error.to_string() })?
            .copy_from_slice(bytemuck::cast_slice(words));
        self.buffer.unmap();
        Ok(())
    }

    /// The whole buffer.
    #[must_use]
    pub fn binding(&self) -> BufferBinding<'_> {
        self.buffer.as_entire_buffer_binding()
    }

    /// Says which sequences take part in what is submitted next, in the order of their tokens
    /// along T, or in a shape that is not packed along the batch. Fewer than the shape has will
    /// do: what is beyond them is not touched, neither its rows of o.
    ///
    /// Nothing waits: the queue writes before its next submission begins. The status is kept.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`], [`PoolError::Duplicate`], [`PoolError::Entries`] where there are
    /// more sequences or tokens than the shape has, or [`PoolError::Pool`] where the pool has
    /// another number of slots. Nothing is written then.
    pub fn write(
        &self,
        queue: &wgpu::Queue,
        pool: &StatePool,
        entries: &[Entry],
    ) -> Result<(), PoolError> {
        if Some(pool.capacity()) != self.slots {
            let required = self.slots.unwrap_or(0);
            return Err(PoolError::Pool { required, actual: pool.capacity() });
        }
        let slots: Vec<Slot> = entries.iter().map(|entry| entry.slot).collect();
        let slots = pool.indices(&slots)?;
        let refuse = |what, required: u32, actual: u64| {
            Err(PoolError::Entries { what, required: required.into(), actual })
        };
        if entries.len() > self.sequences as usize {
            return refuse("sequences", self.sequences, entries.len() as u64);
        }
        for entry in entries {
            let is_wrong = if self.is_packed {
                entry.tokens > self.max_len
            } else {
                entry.tokens != self.tokens
            };
            if is_wrong {
                return refuse("tokens of a sequence", self.max_len, entry.tokens.into());
            }
        }
        let tokens = entries.iter().map(|entry| u64::from(entry.tokens)).sum();
        if self.is_packed && tokens > u64::from(self.tokens) {
            return refuse("tokens", self.tokens, tokens);
        }
        let lengths: Vec<u32> = entries.iter().map(|entry| entry.tokens).collect();
        let words = self.words(&lengths, &slots);
        // Behind the status, which the shaders write.
        queue.write_buffer(&self.buffer, 4, bytemuck::cast_slice(&words));
        Ok(())
    }

    /// `cu_seqlens` where the shape is packed, then slots; entries beyond these are not in use.
    fn words(&self, lengths: &[u32], slots: &[u32]) -> Vec<u32> {
        let n = self.sequences as usize;
        let mut words = Vec::with_capacity(2 * n + 1);
        if self.is_packed {
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

    /// Records a copy of the status on its way to the host: how many entries the shaders had to
    /// ignore since [`Batch::clear_status`]. What [`Batch::write`] writes is never ignored.
    ///
    /// # Errors
    ///
    /// No memory for the copy.
    pub fn status(
        &self,
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
    ) -> Result<Status, Error> {
        let readback = Readback::record_ranges(device, encoder, &[(&self.buffer, 0, 4)])?;
        Ok(Status { readback })
    }

    /// Sets the status to zero.
    pub fn clear_status(&self, encoder: &mut wgpu::CommandEncoder) {
        encoder.clear_buffer(&self.buffer, 0, Some(4));
    }
}

/// A status on its way to the host.
#[derive(Debug)]
pub struct Status {
    readback: Readback,
}

impl Status {
    /// Entries ignored, once the submission that holds the copy has run.
    ///
    /// # Errors
    ///
    /// [`Error::Device`] where the device was lost or the copy could not be read.
    pub async fn read(self, device: &wgpu::Device) -> Result<u32, Error> {
        self.readback.read(device).await.map(|read| count(&read))
    }

    /// The same, blocking this thread until the device is done.
    ///
    /// # Errors
    ///
    /// As [`Status::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self, device: &wgpu::Device) -> Result<u32, Error> {
        self.readback.wait(device).map(|read| count(&read))
    }
}

/// A readback has f32s, bit for bit what the buffer held.
fn count(read: &[Vec<f32>]) -> u32 {
    read.first().and_then(|words| words.first()).map_or(0, |word| word.to_bits())
}

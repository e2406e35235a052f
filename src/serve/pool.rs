//! A pool of states of fixed size: one for each conversation, whatever its length.

use std::num::NonZeroU64;
use std::sync::{Mutex, MutexGuard, PoisonError};

use wgpu::{BufferAddress, BufferBinding, BufferUsages};

use crate::device::buffers::{empty_buffer, staging_buffer};
use crate::error::PoolError;
use crate::plan::Plan;
use crate::problem::config::Config;
use crate::problem::tensor::{elements, state_len};
use crate::serve::slots::{Slot, Slots};
use crate::serve::snapshot::{self, Snapshot};

/// A buffer of states, and the allocation of its slots.
///
/// A slot holds what one sequence has, for one layer: mu `[E,F,V]` and then, where o is normalised,
/// nu `[E,F]`, in f32, [`StatePool::state_size`] bytes, whether it has seen sixty tokens or sixty
/// thousand.
///
/// All methods take `&self`; share it in an `Arc`. Those that take an encoder record into it, and
/// their work takes effect in the order of the encoder's commands: a slot is zero, or a copy, for
/// all that is submitted after. A slot that is freed may be allocated again at once, since a queue
/// executes work in the order of its submission; so submit encoders in the order in which they were
/// recorded.
#[derive(Debug)]
pub struct StatePool {
    device: wgpu::Device,
    config: Config,
    value_heads: u32,
    buffer: wgpu::Buffer,
    offset: BufferAddress,
    state_size: BufferAddress,
    /// A copy goes through this buffer: WebGPU refuses one within a buffer.
    staging: wgpu::Buffer,
    slots: Mutex<Slots>,
}

/// The usages of a pool's buffer.
const USAGES: BufferUsages =
    BufferUsages::STORAGE.union(BufferUsages::COPY_SRC).union(BufferUsages::COPY_DST);

impl StatePool {
    /// Bytes of one slot.
    ///
    /// # Errors
    ///
    /// A config out of range, or a state that 32 bits cannot index.
    pub fn state_size(config: &Config, value_heads: u32) -> Result<BufferAddress, PoolError> {
        config.validate().map_err(crate::error::PlanError::from)?;
        if value_heads == 0 {
            return Err(crate::error::PlanError::Zero { what: "value_heads" }.into());
        }
        Ok(4 * u64::from(state_len(config, value_heads)?))
    }

    /// Bytes of a pool of `slots` slots.
    ///
    /// # Errors
    ///
    /// As [`StatePool::state_size`]; or a pool that 32 bits cannot index.
    pub fn size(config: &Config, value_heads: u32, slots: u32) -> Result<BufferAddress, PoolError> {
        let state_size = Self::state_size(config, value_heads)?;
        if slots == 0 {
            return Err(crate::error::PlanError::Zero { what: "slots" }.into());
        }
        Ok(4 * elements("pool", &[slots, (state_size / 4) as u32])?)
    }

    /// A pool in a buffer of its own.
    ///
    /// # Errors
    ///
    /// As [`StatePool::size`]; a pool larger than the device binds, or no memory for it.
    pub fn new(
        device: &wgpu::Device,
        config: &Config,
        value_heads: u32,
        slots: u32,
    ) -> Result<Self, PoolError> {
        let size = Self::size(config, value_heads, slots)?;
        let limits = device.limits();
        let required = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        if size > required {
            let largest = required.checked_div(size / u64::from(slots)).map(|n| n as u32);
            return Err(
                crate::error::PlanError::PoolTooLarge { required, actual: size, largest }.into()
            );
        }
        let buffer = empty_buffer(device, "linear_attention.pool", size, USAGES)?;
        Self::in_buffer(device, config, value_heads, slots, buffer.as_entire_buffer_binding())
    }

    /// A pool in a range of the caller's buffer, which must have the usages `STORAGE`,
    /// `COPY_SRC` and `COPY_DST`. What the range holds does not matter.
    ///
    /// # Errors
    ///
    /// As [`StatePool::size`]; a range that is too small, misaligned or of a buffer without
    /// these usages.
    pub fn in_buffer(
        device: &wgpu::Device,
        config: &Config,
        value_heads: u32,
        slots: u32,
        binding: BufferBinding<'_>,
    ) -> Result<Self, PoolError> {
        let required = Self::size(config, value_heads, slots)?;
        let state_size = Self::state_size(config, value_heads)?;
        let (buffer, offset) = (binding.buffer, binding.offset);
        if !buffer.usage().contains(USAGES) {
            return Err(PoolError::Usage { actual: format!("{:?}", buffer.usage()) });
        }
        let align = u64::from(device.limits().min_storage_buffer_offset_alignment);
        if !offset.is_multiple_of(align) {
            return Err(PoolError::Misaligned { required: align, actual: offset });
        }
        let rest = buffer.size().saturating_sub(offset);
        let actual = binding.size.map_or(rest, |size| size.get().min(rest));
        if actual < required {
            return Err(PoolError::TooSmall { required, actual });
        }
        let usage = BufferUsages::COPY_SRC | BufferUsages::COPY_DST;
        let staging = empty_buffer(device, "linear_attention.staging", state_size, usage)?;
        Ok(Self {
            device: device.clone(),
            config: config.clone(),
            value_heads,
            buffer: buffer.clone(),
            offset,
            state_size,
            staging,
            slots: Mutex::new(Slots::new(slots)),
        })
    }

    /// The range to bind as [`Tensors::pool`](crate::Tensors::pool).
    #[must_use]
    pub fn binding(&self) -> BufferBinding<'_> {
        let size = self.state_size * u64::from(self.capacity());
        BufferBinding { buffer: &self.buffer, offset: self.offset, size: NonZeroU64::new(size) }
    }

    /// The number of slots, for [`Shape::with_slots`](crate::Shape::with_slots).
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.lock().capacity()
    }

    /// Slots that are not allocated.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.lock().available()
    }

    /// E, the value heads of its states.
    #[must_use]
    pub fn value_heads(&self) -> u32 {
        self.value_heads
    }

    /// A slot, whose state the encoder sets to zero.
    ///
    /// # Errors
    ///
    /// [`PoolError::Full`].
    pub fn allocate(&self, encoder: &mut wgpu::CommandEncoder) -> Result<Slot, PoolError> {
        let slot = self.take(1)?[0];
        self.clear(encoder, slot);
        Ok(slot)
    }

    /// Gives a slot back. Every copy of this handle is refused from here on.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where it is not allocated, or belongs to another pool.
    pub fn free(&self, slot: Slot) -> Result<(), PoolError> {
        self.lock().release(slot)
    }

    /// Sets the state of a slot to zero: its sequence begins again.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where it is not allocated, or belongs to another pool.
    pub fn zero(&self, encoder: &mut wgpu::CommandEncoder, slot: Slot) -> Result<(), PoolError> {
        self.index(slot)?;
        self.clear(encoder, slot);
        Ok(())
    }

    /// Copies the state of one slot to another.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where either is not allocated, or belongs to another pool.
    pub fn copy(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        from: Slot,
        to: Slot,
    ) -> Result<(), PoolError> {
        self.index(from)?;
        self.index(to)?;
        self.copy_to(encoder, from, &[to]);
        Ok(())
    }

    /// A new slot with a copy of a state: from a shared prefix, say, to a new conversation.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where `from` is not allocated, or [`PoolError::Full`].
    pub fn fork(&self, encoder: &mut wgpu::CommandEncoder, from: Slot) -> Result<Slot, PoolError> {
        Ok(self.fork_many(encoder, from, 1)?[0])
    }

    /// `count` new slots with copies of one state, or none where not all can be had.
    ///
    /// # Errors
    ///
    /// As [`StatePool::fork`].
    pub fn fork_many(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        from: Slot,
        count: u32,
    ) -> Result<Vec<Slot>, PoolError> {
        self.index(from)?;
        let forks = self.take(count)?;
        self.copy_to(encoder, from, &forks);
        Ok(forks)
    }

    /// The index of a slot, if it is allocated.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where it is not, or belongs to another pool.
    pub fn index(&self, slot: Slot) -> Result<u32, PoolError> {
        self.lock().check(slot)
    }

    /// The indices of the slots of one call.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`], or [`PoolError::Duplicate`] where one occurs twice: two sequences
    /// cannot both update one state.
    pub fn indices(&self, slots: &[Slot]) -> Result<Vec<u32>, PoolError> {
        self.lock().check_all(slots)
    }

    /// Records a copy of a slot's state on its way to the host: see [`Snapshot`].
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`], or no memory for the copy.
    pub fn snapshot(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        slot: Slot,
    ) -> Result<Snapshot, PoolError> {
        let index = self.index(slot)?;
        Snapshot::record(
            &self.device,
            encoder,
            snapshot::Header::new(&self.config, self.value_heads),
            (&self.buffer, self.at(index), self.state_size),
        )
    }

    /// A new slot, to which the encoder copies the state that a [`Snapshot`] held.
    ///
    /// # Errors
    ///
    /// [`PoolError::Snapshot`] where the bytes are damaged, of another version, or of a state
    /// that this pool does not hold; [`PoolError::Full`]; or no memory for the copy. No slot is
    /// taken then.
    pub fn restore(
        &self,
        encoder: &mut wgpu::CommandEncoder,
        bytes: &[u8],
    ) -> Result<Slot, PoolError> {
        let header = snapshot::Header::new(&self.config, self.value_heads);
        let state = header.open(bytes, self.state_size)?;
        let label = "linear_attention.restore";
        let upload = staging_buffer(&self.device, label, state)?;
        let slot = self.take(1)?[0];
        encoder.copy_buffer_to_buffer(
            &upload,
            0,
            &self.buffer,
            self.at(slot.index()),
            self.state_size,
        );
        Ok(slot)
    }

    pub(crate) fn device(&self) -> &wgpu::Device {
        &self.device
    }

    pub(crate) fn id(&self) -> u64 {
        self.lock().pool()
    }

    /// Checks that a plan's states are those of this pool.
    pub(crate) fn check_plan(&self, plan: &Plan, slots: u32) -> Result<(), PoolError> {
        let needed = (plan.config(), plan.shape().value_heads, slots);
        snapshot::check_states(needed, (&self.config, self.value_heads, self.capacity()))
    }

    fn take(&self, count: u32) -> Result<Vec<Slot>, PoolError> {
        self.lock().take(count)
    }

    fn clear(&self, encoder: &mut wgpu::CommandEncoder, slot: Slot) {
        encoder.clear_buffer(&self.buffer, self.at(slot.index()), Some(self.state_size));
    }

    fn copy_to(&self, encoder: &mut wgpu::CommandEncoder, from: Slot, to: &[Slot]) {
        let (size, staging) = (self.state_size, &self.staging);
        encoder.copy_buffer_to_buffer(&self.buffer, self.at(from.index()), staging, 0, size);
        for slot in to {
            encoder.copy_buffer_to_buffer(staging, 0, &self.buffer, self.at(slot.index()), size);
        }
    }

    fn at(&self, index: u32) -> BufferAddress {
        self.offset + self.state_size * u64::from(index)
    }

    /// A thread that panicked elsewhere has left the slots whole: nothing here is half done.
    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A pool of states in memory: one for each conversation, whatever its length.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{PlanError, PoolError};
use crate::problem::config::Config;
use crate::problem::shape::Shape;
use crate::serve;
use crate::serve::slots::{Slot, Slots};
use crate::serve::snapshot::{Header, check_states};

/// The states of sequences in memory, and the allocation of their slots.
///
/// A slot holds what one sequence has, for one layer: mu `[E,F,V]` and, where o is normalised, nu
/// `[E,F]`, in f32. [`CpuPlan::run_in_pool`](crate::cpu::CpuPlan::run_in_pool) updates it in place.
/// Its snapshots are those of [`serve::StatePool`](crate::serve::StatePool), which restores them,
/// and the other way round.
///
/// All methods take `&self`; share it in an `Arc`. Calls that use other slots may run at the same
/// time.
#[derive(Debug)]
pub struct StatePool {
    config: Config,
    value_heads: u32,
    /// `[slots,E]`.
    states: Vec<Mutex<State>>,
    slots: Mutex<Slots>,
}

/// The state of a value head.
#[derive(Debug, Default)]
pub(super) struct State {
    /// `[F,V]`.
    pub(super) mu: Vec<f32>,
    /// `[F]`; empty where o is not normalised.
    pub(super) nu: Vec<f32>,
}

impl Clone for State {
    fn clone(&self) -> Self {
        Self { mu: self.mu.clone(), nu: self.nu.clone() }
    }

    /// Keeps the memory that there is.
    fn clone_from(&mut self, from: &Self) {
        self.mu.clone_from(&from.mu);
        self.nu.clone_from(&from.nu);
    }
}

impl StatePool {
    /// Bytes of one slot.
    ///
    /// # Errors
    ///
    /// A config out of range, or a state that 32 bits cannot index.
    pub fn state_size(config: &Config, value_heads: u32) -> Result<u64, PoolError> {
        serve::StatePool::state_size(config, value_heads)
    }

    /// A pool of `slots` slots, of which none is allocated.
    ///
    /// # Errors
    ///
    /// As [`StatePool::state_size`]; or no slots.
    pub fn new(config: &Config, value_heads: u32, slots: u32) -> Result<Self, PoolError> {
        Self::state_size(config, value_heads)?;
        if slots == 0 {
            return Err(PlanError::Zero { what: "slots" }.into());
        }
        let features = config.features() as usize;
        let state = || State {
            mu: vec![0.0; features * config.value_dim as usize],
            nu: vec![0.0; if config.is_normalized() { features } else { 0 }],
        };
        let count = slots as usize * value_heads as usize;
        Ok(Self {
            config: config.clone(),
            value_heads,
            states: (0..count).map(|_| Mutex::new(state())).collect(),
            slots: Mutex::new(Slots::new(slots)),
        })
    }

    /// Slots there are.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.lock().capacity()
    }

    /// Slots that are not allocated.
    #[must_use]
    pub fn available(&self) -> u32 {
        self.lock().available()
    }

    /// E of its states.
    #[must_use]
    pub fn value_heads(&self) -> u32 {
        self.value_heads
    }

    /// A slot, whose state is zero.
    ///
    /// # Errors
    ///
    /// [`PoolError::Full`].
    pub fn allocate(&self) -> Result<Slot, PoolError> {
        let slot = self.take(1)?[0];
        self.clear(slot);
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
    pub fn zero(&self, slot: Slot) -> Result<(), PoolError> {
        self.index(slot)?;
        self.clear(slot);
        Ok(())
    }

    /// Copies the state of one slot to another.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where either is not allocated, or belongs to another pool.
    pub fn copy(&self, from: Slot, to: Slot) -> Result<(), PoolError> {
        let from = self.index(from)?;
        self.index(to)?;
        self.copy_to(from, &[to]);
        Ok(())
    }

    /// A new slot with a copy of a state: from a shared prefix, say, to a new conversation.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where `from` is not allocated, or [`PoolError::Full`].
    pub fn fork(&self, from: Slot) -> Result<Slot, PoolError> {
        Ok(self.fork_many(from, 1)?[0])
    }

    /// `count` new slots with copies of one state, or none where not all can be had.
    ///
    /// # Errors
    ///
    /// As [`StatePool::fork`].
    pub fn fork_many(&self, from: Slot, count: u32) -> Result<Vec<Slot>, PoolError> {
        let from = self.index(from)?;
        let forks = self.take(count)?;
        self.copy_to(from, &forks);
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

    /// The state of a slot as bytes: see [`Snapshot`](crate::serve::Snapshot), whose format they
    /// have.
    ///
    /// # Errors
    ///
    /// [`PoolError::Slot`] where it is not allocated, or belongs to another pool.
    pub fn snapshot(&self, slot: Slot) -> Result<Vec<u8>, PoolError> {
        let index = self.index(slot)?;
        let mut state = Vec::new();
        self.for_heads(index, |head| state.extend_from_slice(&head.mu));
        self.for_heads(index, |head| state.extend_from_slice(&head.nu));
        state.iter_mut().for_each(|x: &mut f32| *x = f32::from_bits(x.to_bits().to_le()));
        Ok(Header::new(&self.config, self.value_heads).seal(bytemuck::cast_slice(&state)))
    }

    /// A new slot with the state that a snapshot of this pool or of another, on a device or not,
    /// held.
    ///
    /// # Errors
    ///
    /// [`PoolError::Snapshot`] where the bytes are damaged, of another version, or of a state that
    /// this pool does not hold; or [`PoolError::Full`]. No slot is taken then.
    pub fn restore(&self, bytes: &[u8]) -> Result<Slot, PoolError> {
        let header = Header::new(&self.config, self.value_heads);
        let state = header.open(bytes, Self::state_size(&self.config, self.value_heads)?)?;
        let slot = self.take(1)?[0];
        let mut all = state.as_chunks::<4>().0.iter().map(|x| f32::from_le_bytes(*x));
        let mut fill = |x: &mut [f32]| x.iter_mut().zip(&mut all).for_each(|(to, from)| *to = from);
        self.for_heads(slot.index(), |head| fill(&mut head.mu));
        self.for_heads(slot.index(), |head| fill(&mut head.nu));
        Ok(slot)
    }

    /// Refuses a call on other states than those of the pool.
    pub(super) fn check_call(&self, config: &Config, shape: &Shape) -> Result<(), PoolError> {
        let slots = shape.slots.unwrap_or(self.capacity());
        let needed = (config, shape.value_heads, slots);
        check_states(needed, (&self.config, self.value_heads, self.capacity()))
    }

    /// Calls `with` with the state of a value head of a slot.
    pub(super) fn with(&self, slot: u32, e: usize, with: impl FnOnce(&mut State)) {
        let state = slot as usize * self.value_heads as usize + e;
        if let Some(state) = self.states.get(state) {
            with(&mut state.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }

    fn for_heads(&self, slot: u32, mut each: impl FnMut(&mut State)) {
        (0..self.value_heads as usize).for_each(|e| self.with(slot, e, &mut each));
    }

    fn clear(&self, slot: Slot) {
        self.for_heads(slot.index(), |head| {
            head.mu.fill(0.0);
            head.nu.fill(0.0);
        });
    }

    fn copy_to(&self, from: u32, targets: &[Slot]) {
        let mut copied = State::default();
        for target in targets {
            self.copy_through(from, target.index(), &mut copied);
        }
    }

    /// Copies a state by way of another, so that no two locks are held at once.
    pub(super) fn copy_through(&self, from: u32, to: u32, copied: &mut State) {
        for e in 0..self.value_heads as usize {
            self.with(from, e, |from| copied.clone_from(from));
            self.with(to, e, |to| to.clone_from(copied));
        }
    }

    fn take(&self, count: u32) -> Result<Vec<Slot>, PoolError> {
        self.lock().take(count)
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

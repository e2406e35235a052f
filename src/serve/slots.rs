//! The allocation of a pool's slots.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::PoolError;

/// A slot that was allocated from a [`StatePool`](crate::serve::StatePool). It is a name, not an
/// owner: a copy of it names the same slot, and after
/// [`StatePool::free`](crate::serve::StatePool::free) every copy is refused, even once the slot has
/// been allocated again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    pool: u64,
    index: u32,
    generation: u32,
}

impl Slot {
    /// Its index in the pool, by which [`Sequences::Device`](crate::serve::Sequences::Device) names
    /// it. [`StatePool::index`](crate::serve::StatePool::index) also says whether it is still
    /// allocated.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// The slots of one pool.
#[derive(Debug)]
pub(crate) struct Slots {
    /// Differs from pool to pool, so that a handle of one is refused by another.
    pool: u64,
    /// Allocations and releases of each slot: odd while it is allocated.
    generations: Vec<u32>,
    free: Vec<u32>,
}

impl Slots {
    pub(crate) fn new(count: u32) -> Self {
        static POOLS: AtomicU64 = AtomicU64::new(0);
        Self {
            pool: POOLS.fetch_add(1, Ordering::Relaxed),
            generations: vec![0; count as usize],
            // The last is taken first.
            free: (0..count).rev().collect(),
        }
    }

    pub(crate) fn pool(&self) -> u64 {
        self.pool
    }

    pub(crate) fn capacity(&self) -> u32 {
        self.generations.len() as u32
    }

    pub(crate) fn available(&self) -> u32 {
        self.free.len() as u32
    }

    /// Allocates `count` slots, or none.
    pub(crate) fn take(&mut self, count: u32) -> Result<Vec<Slot>, PoolError> {
        let left = self.free.len().checked_sub(count as usize).ok_or(PoolError::Full {
            required: count,
            available: self.available(),
            capacity: self.capacity(),
        })?;
        let taken = self.free.split_off(left);
        let slot = |index: u32| {
            let generation = &mut self.generations[index as usize];
            *generation = generation.wrapping_add(1);
            Slot { pool: self.pool, index, generation: *generation }
        };
        Ok(taken.into_iter().rev().map(slot).collect())
    }

    pub(crate) fn release(&mut self, slot: Slot) -> Result<(), PoolError> {
        let index = self.check(slot)?;
        // Even: free. A generation that came round to 0 could meet a handle of long ago, after
        // two thousand million allocations of one slot: then the slot is retired.
        let generation = &mut self.generations[index as usize];
        *generation = generation.wrapping_add(1);
        if *generation != 0 {
            self.free.push(index);
        }
        Ok(())
    }

    /// The index of a slot, if it is allocated.
    pub(crate) fn check(&self, slot: Slot) -> Result<u32, PoolError> {
        let refuse = |required| Err(PoolError::Slot { index: slot.index, required });
        if slot.pool != self.pool {
            return refuse("of this pool");
        }
        if self.generations.get(slot.index as usize) != Some(&slot.generation) {
            return refuse("allocated and not freed since");
        }
        Ok(slot.index)
    }

    /// The indices of slots, each allocated and none twice.
    pub(crate) fn check_all(&self, slots: &[Slot]) -> Result<Vec<u32>, PoolError> {
        let mut seen = HashSet::with_capacity(slots.len());
        slots
            .iter()
            .map(|slot| {
                let index = self.check(*slot)?;
                if seen.insert(index) { Ok(index) } else { Err(PoolError::Duplicate { index }) }
            })
            .collect()
    }
}

//! The entries of a call in a pool, and the memory that it needs.

use crate::cpu::pool::{State, StatePool};
use crate::error::PoolError;
use crate::problem::shape::Shape;
use crate::serve::Entry;
use crate::serve::batch::check_counts;

/// The memory that a call in a pool needs.
#[derive(Debug, Default)]
pub(super) struct InPool {
    /// The slots of the call's sequences, and the same in order, each with its sequence.
    pub(super) slots: Vec<u32>,
    pub(super) written: Vec<(u32, usize)>,
    /// nu `[N,E,F]`, where threads share value heads.
    pub(super) nus: Vec<f32>,
    /// A state on its way from one slot to another.
    pub(super) copied: State,
}

impl InPool {
    /// Refuses entries that the shape has no room for or the pool no states, and takes their slots.
    pub(super) fn check(
        &mut self,
        pool: &StatePool,
        shape: &Shape,
        entries: &[Entry],
    ) -> Result<(), PoolError> {
        check_counts(shape, entries)?;
        self.slots.clear();
        self.written.clear();
        for (n, entry) in entries.iter().enumerate() {
            let slot = pool.index(entry.slot)?;
            self.slots.push(slot);
            self.written.push((slot, n));
        }
        self.written.sort_unstable();
        if let Some(pair) = self.written.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(PoolError::Duplicate { index: pair[0].0 });
        }
        for (n, entry) in entries.iter().enumerate() {
            let Some(source) = entry.source else { continue };
            let index = pool.index(source)?;
            let at = self.written.partition_point(|(slot, _)| *slot < index);
            match self.written.get(at) {
                Some((slot, owner)) if *slot == index && *owner != n => {
                    return Err(PoolError::Source { index });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

//! The threads that share a call.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Threads of the pool that the caller runs in.
pub(super) fn count() -> usize {
    #[cfg(feature = "rayon")]
    return rayon::current_num_threads();
    #[cfg(not(feature = "rayon"))]
    return 1;
}

/// Calls `run` with every item, `least` of them at a time on a thread.
#[cfg(feature = "rayon")]
pub(super) fn for_each<T: Sync>(all: &[T], least: usize, run: impl Fn(&T) + Send + Sync) {
    use rayon::prelude::*;
    all.par_iter().with_min_len(least).with_max_len(least).for_each(run);
}

/// Calls `run` with every item.
#[cfg(not(feature = "rayon"))]
pub(super) fn for_each<T>(all: &[T], _: usize, run: impl Fn(&T)) {
    all.iter().for_each(run);
}

/// As [`largest_bits`](crate::problem::io::largest_bits), on all threads.
#[cfg(feature = "rayon")]
pub(super) fn largest_bits(slice: &[f32]) -> u32 {
    use rayon::prelude::*;
    /// Elements that are worth another thread.
    const LEAST: usize = 1 << 16;
    if slice.len() <= LEAST {
        return crate::problem::io::largest_bits(slice);
    }
    slice.par_chunks(LEAST).map(crate::problem::io::largest_bits).max().unwrap_or(0)
}

/// As [`largest_bits`](crate::problem::io::largest_bits).
#[cfg(not(feature = "rayon"))]
pub(super) fn largest_bits(slice: &[f32]) -> u32 {
    crate::problem::io::largest_bits(slice)
}

/// The element that belongs to this thread, of a list that has one for each.
pub(super) fn of_thread<T>(all: &[Mutex<T>]) -> Option<MutexGuard<'_, T>> {
    #[cfg(feature = "rayon")]
    let thread = rayon::current_thread_index().unwrap_or(0);
    #[cfg(not(feature = "rayon"))]
    let thread = 0;
    // Of another pool than the plan was made in there may be more of them, which then take turns.
    let one = all.get(thread % all.len().max(1))?;
    Some(one.lock().unwrap_or_else(PoisonError::into_inner))
}

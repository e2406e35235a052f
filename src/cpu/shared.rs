//! A slice that threads write to, each to rows of its own.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// A slice in parts of whole rows, each behind a lock that is held for the time of a copy.
pub(super) struct Shared<'a, T> {
    parts: Parts<'a, T>,
    rows_of_part: usize,
    row_len: usize,
}

/// The memory of the parts of a slice, which a plan keeps from call to call.
pub(super) type Parts<'a, T> = Vec<Mutex<&'a mut [T]>>;

impl<'a, T> Shared<'a, T> {
    /// Parts of so many rows of so many elements; takes the memory of parts that there were.
    pub(super) fn new(
        slices: impl Iterator<Item = &'a mut [T]>,
        (row_len, rows_of_part): (usize, usize),
        parts: &mut Parts<'static, T>,
    ) -> Self {
        let mut parts: Parts<'a, T> = emptied(std::mem::take(parts));
        parts.extend(slices.map(Mutex::new));
        Self { parts, rows_of_part, row_len }
    }

    /// Each row of a slice by itself.
    pub(super) fn rows(slice: &'a mut [T], row_len: usize, parts: &mut Parts<'static, T>) -> Self {
        let row_len = row_len.max(1);
        Self::new(slice.chunks_mut(row_len), (row_len, 1), parts)
    }

    /// The memory of the parts.
    pub(super) fn into_parts(self) -> Parts<'static, T> {
        emptied(self.parts)
    }

    /// Calls `with` with a row.
    pub(super) fn with_row(&self, row: usize, with: impl FnOnce(&mut [T])) {
        let Some(lock) = self.parts.get(row / self.rows_of_part) else { return };
        let mut of_part = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let row = of_part.chunks_mut(self.row_len).nth(row % self.rows_of_part);
        if let Some(row) = row {
            with(row);
        }
    }

    /// Calls `write` with each of these rows and its number. Threads that begin with another part
    /// do not wait for one another: `turn` is different for each of those that write to the same
    /// rows.
    #[inline(always)]
    pub(super) fn write(
        &self,
        rows: Range<usize>,
        turn: usize,
        mut write: impl FnMut(usize, &mut [T]),
    ) {
        let parts = rows.start / self.rows_of_part..rows.end.div_ceil(self.rows_of_part);
        for i in 0..parts.len() {
            let part = parts.start + (i + turn) % parts.len();
            let first = part * self.rows_of_part;
            let (begin, end) = (rows.start.max(first), rows.end.min(first + self.rows_of_part));
            let Some(lock) = self.parts.get(part) else { continue };
            let mut of_part = lock.lock().unwrap_or_else(PoisonError::into_inner);
            let of_rows = of_part.chunks_mut(self.row_len).skip(begin - first);
            for (i, row) in of_rows.take(end - begin).enumerate() {
                write(begin + i, row);
            }
        }
    }
}

/// No parts, in the memory of these.
fn emptied<'a, T>(mut parts: Parts<'_, T>) -> Parts<'a, T> {
    parts.clear();
    parts.into_iter().map_while(|_| None).collect()
}

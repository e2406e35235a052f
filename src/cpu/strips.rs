//! The columns of a state in strips, as wide as a tile of sums.

use std::ops::Range;

use pulp::Simd;

use crate::cpu::tiles::HasWide;

/// How columns lie in strips: a strip has two vectors where tiles of two fit the registers, and one
/// elsewhere. The last is one vector wide where that holds the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strips {
    /// Columns of a vector.
    pub(super) lanes: usize,
    /// Columns of a strip but the last.
    pub(super) width: usize,
}

/// Some columns of a state.
#[derive(Debug, PartialEq)]
pub(super) struct Strip {
    pub(super) columns: Range<usize>,
    /// Elements of a row of it: those behind its columns are not used.
    pub(super) width: usize,
}

impl Strips {
    /// Of tiles of these vectors.
    pub(super) fn new<S: Simd>() -> Self {
        let vectors = if HasWide::<S>::TILES { 2 } else { 1 };
        Self { lanes: S::F32_LANES, width: vectors * S::F32_LANES }
    }

    /// The strips of so many columns.
    pub(super) fn of(self, columns: usize) -> impl Iterator<Item = Strip> {
        (0..columns).step_by(self.width).map(move |begin| {
            let columns = begin..columns.min(begin + self.width);
            Strip { width: self.room(columns.len()), columns }
        })
    }

    /// The elements of a row of all strips of so many columns.
    pub(super) fn room(self, columns: usize) -> usize {
        columns.next_multiple_of(self.lanes)
    }
}

impl Strip {
    /// Where so many rows of the strip lie, behind those of the strips before it.
    pub(super) fn rows(&self, rows: usize) -> Range<usize> {
        rows * self.columns.start..rows * (self.columns.start + self.width)
    }

    /// True for a strip of two vectors: false, as a constant, where no tile is so wide.
    #[inline(always)]
    pub(super) fn is_wide<S: Simd>(&self) -> bool {
        HasWide::<S>::TILES && self.width > S::F32_LANES
    }
}

#[cfg(test)]
mod tests {
    use super::{Strip, Strips};

    #[test]
    fn strips_follow_one_another() {
        for (lanes, width) in [(1, 1), (4, 8), (8, 8), (16, 32)] {
            let strips = Strips { lanes, width };
            for columns in 0..150 {
                let (mut end, mut room) = (0, 0);
                for Strip { columns, width } in strips.of(columns) {
                    assert_eq!((columns.start, columns.start), (end, room));
                    assert!(width - columns.len() < lanes);
                    (end, room) = (columns.end, room + width);
                }
                assert_eq!((end, room), (columns, strips.room(columns)));
            }
        }
    }
}

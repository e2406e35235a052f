//! Products of the rows of a block of tokens with a state, and with one another, on tiles.
//!
//! Rows are `[TOKENS][width]`, pairs `[j][t]`.

use pulp::Simd;

use crate::cpu::backward::vectors::DecayFactor;
use crate::cpu::pairs::Pairs;
use crate::cpu::rows::TOKENS;
use crate::cpu::tiles::{self, HasWide, ROWS, Tile};

/// Tiles of a row of a token's pairs.
pub(super) const PAIR_TILES: usize = TOKENS / ROWS;

/// Elements from one row of so many columns to the next: whole tiles and strips.
#[inline(always)]
pub(super) fn width<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of((tiles::vectors::<S>(columns) * S::F32_LANES).max(ROWS))
}

/// True for rows that are best taken in strips of two vectors.
#[inline(always)]
pub(super) fn are_wide<S: Simd>(width: usize) -> bool {
    HasWide::<S>::TILES && tiles::vectors::<S>(width) == 2
}

/// A product, in strips of N vectors.
pub(super) trait OnStrips<S: Simd> {
    fn run<const N: usize>(self, simd: S);
}

/// Runs it in strips that suit rows of so many elements.
#[inline(always)]
pub(super) fn on_strips<S: Simd>(simd: S, width: usize, op: impl OnStrips<S>) {
    if are_wide::<S>(width) { op.run::<2>(simd) } else { op.run::<1>(simd) }
}

/// `to_i = factors_i rows_i S`, of `count` tokens.
pub(super) struct ReadState<'a> {
    pub(super) count: usize,
    pub(super) rows: (&'a [f32], usize),
    pub(super) factors: &'a [f32; TOKENS],
    pub(super) state: &'a [f32],
    pub(super) to: (&'a mut [f32], usize),
}

impl<S: Simd> OnStrips<S> for ReadState<'_> {
    #[inline(always)]
    fn run<const N: usize>(self, simd: S) {
        let Self { count, rows: (rows, inner), factors, state, to: (to, width) } = self;
        let strips = width / (N * S::F32_LANES);
        let state = tiles::rows_of::<S, N>(&state[..inner * width]);
        let to = tiles::rows_of_mut::<S, N>(to);
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let rows = std::array::from_fn(|r| &rows[(first + r) * inner..][..inner]);
                let zeros = tiles::zeros::<S, N>(simd);
                let sums = tiles::multiply_rows(simd, rows, (&state[strip..], strips), zeros);
                for (r, sums) in sums.into_iter().enumerate() {
                    to[(first + r) * strips + strip] = tiles::scale(simd, factors[first + r], sums);
                }
            }
        }
    }
}

/// `to_t += Σ_j pairs[j][t] rows_j`, over tokens j up to t. Pairs of others are 0.
pub(super) struct AddEarlier<'a> {
    pub(super) count: usize,
    pub(super) pairs: &'a Pairs,
    pub(super) rows: &'a [f32],
    pub(super) to: (&'a mut [f32], usize),
}

impl<S: Simd> OnStrips<S> for AddEarlier<'_> {
    #[inline(always)]
    fn run<const N: usize>(self, simd: S) {
        let Self { count, pairs, rows, to: (to, width) } = self;
        let strips = width / (N * S::F32_LANES);
        let pairs = pairs.as_flattened().as_chunks::<ROWS>().0;
        let (rows, to) = (tiles::rows_of::<S, N>(rows), tiles::rows_of_mut::<S, N>(to));
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let pairs = (&pairs[first / ROWS..], PAIR_TILES);
                let up_to = rows[strip..].iter().step_by(strips).take(count.min(first + ROWS));
                let sums = load::<S, N>(to, [first, strip, strips]);
                let sums = tiles::multiply(simd, pairs, up_to, sums);
                store::<S, N>(sums, to, [first, strip, strips]);
            }
        }
    }
}

/// `to_j += Σ_t pairs[j][t] rows_t`, over tokens t from j on. Pairs of others are 0.
pub(super) struct AddLater<'a> {
    pub(super) count: usize,
    pub(super) pairs: &'a Pairs,
    pub(super) rows: &'a [f32],
    pub(super) to: (&'a mut [f32], usize),
}

impl<S: Simd> OnStrips<S> for AddLater<'_> {
    #[inline(always)]
    fn run<const N: usize>(self, simd: S) {
        let Self { count, pairs, rows, to: (to, width) } = self;
        let strips = width / (N * S::F32_LANES);
        let (rows, to) = (tiles::rows_of::<S, N>(rows), tiles::rows_of_mut::<S, N>(to));
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let pairs = std::array::from_fn(|r| &pairs[first + r][first..count]);
                let from_on = (&rows[first * strips + strip..], strips);
                let sums = load::<S, N>(to, [first, strip, strips]);
                let sums = tiles::multiply_rows(simd, pairs, from_on, sums);
                store::<S, N>(sums, to, [first, strip, strips]);
            }
        }
    }
}

/// `S = decay S + Σ_t columns_t^T rows_t`.
pub(super) struct Accumulate<'a> {
    pub(super) count: usize,
    pub(super) decay: DecayFactor,
    pub(super) columns: (&'a [f32], usize),
    pub(super) rows: (&'a [f32], usize),
    pub(super) state: &'a mut [f32],
}

impl<S: Simd> OnStrips<S> for Accumulate<'_> {
    #[inline(always)]
    fn run<const N: usize>(self, simd: S) {
        let Self { count, decay, columns: (columns, inner), rows: (rows, width), state } = self;
        let strips = width / (N * S::F32_LANES);
        let columns = columns.as_chunks::<ROWS>().0;
        let rows = tiles::rows_of::<S, N>(rows);
        let state = tiles::rows_of_mut::<S, N>(&mut state[..inner * width]);
        for (strip, tile) in
            (0..strips).flat_map(|strip| (0..inner / ROWS).map(move |tile| (strip, tile)))
        {
            let rows = rows[strip..].iter().step_by(strips).take(count);
            let zeros = tiles::zeros::<S, N>(simd);
            let sums = tiles::multiply(simd, (&columns[tile..], inner / ROWS), rows, zeros);
            let of_state = state[tile * ROWS * strips + strip..].iter_mut().step_by(strips);
            for (state, mut sums) in of_state.zip(sums) {
                decay.add_to(simd, state, &mut sums);
                *state = sums;
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd, const N: usize>(
    rows: &[[S::f32s; N]],
    [first, strip, strips]: [usize; 3],
) -> Tile<S, N> {
    std::array::from_fn(|r| rows[(first + r) * strips + strip])
}

#[inline(always)]
fn store<S: Simd, const N: usize>(
    tile: Tile<S, N>,
    rows: &mut [[S::f32s; N]],
    [first, strip, strips]: [usize; 3],
) {
    for (r, sums) in tile.into_iter().enumerate() {
        rows[(first + r) * strips + strip] = sums;
    }
}

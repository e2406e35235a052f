//! Products of the rows of a block of tokens with a state, and with one another, on tiles.
//!
//! Rows are `[TOKENS][width]`, pairs `[j][t]`.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use crate::cpu::backward::vectors::DecayFactor;
use crate::cpu::pairs::Pairs;
use crate::cpu::tiles::{self, HasWide, ROWS, TOKENS, Tile};

/// Tiles of a row of a token's pairs.
pub(super) const PAIR_TILES: usize = TOKENS / ROWS;

/// Vectors of a strip of that many columns: those that leave the fewest empty, wide ones first.
fn vectors<S: Simd>(columns: usize) -> usize {
    let all = |vectors: usize| columns.div_ceil(vectors * S::F32_LANES) * vectors;
    if HasWide::<S>::TILES && 10 * all(2) <= 13 * all(1) { 2 } else { 1 }
}

/// Elements from one row of so many columns to the next: whole tiles and strips.
#[inline(always)]
pub(super) fn width<S: Simd>(columns: usize) -> usize {
    columns.next_multiple_of((vectors::<S>(columns) * S::F32_LANES).max(ROWS))
}

/// A product, in strips of N vectors.
pub(super) trait OnStrips {
    fn run<S: Simd, const N: usize>(self, simd: S);
}

/// Runs it in strips that suit rows of so many elements.
#[inline(always)]
pub(super) fn on_strips<S: Simd>(simd: S, width: usize, op: impl OnStrips) {
    // A function by itself, since some are called in many places.
    simd.vectorize(Strips { width, op });
}

struct Strips<Op> {
    width: usize,
    op: Op,
}

impl<Op: OnStrips> WithSimd for Strips<Op> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        match HasWide::<S>::TILES && vectors::<S>(self.width) == 2 {
            true => self.op.run::<S, 2>(simd),
            false => self.op.run::<S, 1>(simd),
        }
    }
}

/// `to_i = factors_i rows_i S`, of `count` tokens.
pub(super) struct ReadState<'a> {
    pub(super) count: usize,
    pub(super) rows: (&'a [f32], usize),
    pub(super) factors: &'a [f32; TOKENS],
    pub(super) state: &'a [f32],
    pub(super) to: (&'a mut [f32], usize),
}

impl OnStrips for ReadState<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let Self { count, rows: (rows, inner), factors, state, to: (to, width) } = self;
        let strips = width / (N * S::F32_LANES);
        let state = tiles::rows_of::<S, N>(&state[..inner * width]);
        let to = tiles::rows_of_mut::<S, N>(to);
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let rows = rows_of_tile(rows, inner, first);
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

impl OnStrips for AddEarlier<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let Self { count, pairs, rows, to: (to, width) } = self;
        let strips = width / (N * S::F32_LANES);
        let pairs = pairs.as_flattened().as_chunks::<ROWS>().0;
        let (rows, to) = (tiles::rows_of::<S, N>(rows), tiles::rows_of_mut::<S, N>(to));
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let pairs = (&pairs[first / ROWS..], PAIR_TILES);
                let up_to = rows[strip..].iter().step_by(strips).take(count.min(first + ROWS));
                let sums = load::<S, N>(simd, to, [first, strip, strips]);
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

impl OnStrips for AddLater<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let Self { count, pairs, rows, to: (to, width) } = self;
        let strips = width / (N * S::F32_LANES);
        let (rows, to) = (tiles::rows_of::<S, N>(rows), tiles::rows_of_mut::<S, N>(to));
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let pairs = pairs_of_tile(pairs, first, first..count);
                let from_on = (&rows[first * strips + strip..], strips);
                let sums = load::<S, N>(simd, to, [first, strip, strips]);
                let sums = tiles::multiply_rows(simd, pairs, from_on, sums);
                store::<S, N>(sums, to, [first, strip, strips]);
            }
        }
    }
}

/// `S = decay S + Σ_t columns_t^T rows_t`.
pub(super) struct Accumulate<'a> {
    pub(super) count: usize,
    pub(super) decay: Option<DecayFactor>,
    pub(super) columns: (&'a [f32], usize),
    pub(super) rows: (&'a [f32], usize),
    pub(super) state: &'a mut [f32],
}

impl OnStrips for Accumulate<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
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
                match decay {
                    Some(decay) => decay.add_to(simd, state, &mut sums),
                    None => {
                        for (sum, x) in sums.iter_mut().zip(&*state) {
                            *sum = simd.add_f32s(*x, *sum);
                        }
                    }
                }
                *state = sums;
            }
        }
    }
}

// Loops, since a closure that is not inlined has no vectors.

/// Rows of so many elements, from `first` on.
#[inline(always)]
pub(super) fn rows_of_tile(rows: &[f32], len: usize, first: usize) -> [&[f32]; ROWS] {
    let mut of_tile = [&[][..]; ROWS];
    for (to, row) in of_tile.iter_mut().zip(rows[first * len..].chunks(len)) {
        *to = row;
    }
    of_tile
}

/// The pairs of tokens j from `first` on with tokens t.
#[inline(always)]
pub(super) fn pairs_of_tile(pairs: &Pairs, first: usize, t: Range<usize>) -> [&[f32]; ROWS] {
    let mut of_tile = [&[][..]; ROWS];
    for (to, pairs) in of_tile.iter_mut().zip(&pairs[first..]) {
        *to = &pairs[t.clone()];
    }
    of_tile
}

/// A strip's rows from `first` on.
#[inline(always)]
pub(super) fn load<S: Simd, const N: usize>(
    simd: S,
    rows: &[[S::f32s; N]],
    [first, strip, strips]: [usize; 3],
) -> Tile<S, N> {
    let mut tile = tiles::zeros::<S, N>(simd);
    for (r, to) in tile.iter_mut().enumerate() {
        *to = rows[(first + r) * strips + strip];
    }
    tile
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

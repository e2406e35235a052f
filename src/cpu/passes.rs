//! The passes of a block of tokens over a strip of a state: the work of the engine.

use pulp::Simd;

use crate::cpu::ahead::Ahead;
use crate::cpu::block::Block;
use crate::cpu::mutation::{Mistake, Mutation};
use crate::cpu::tiles::{self, ROWS, TOKENS};

/// Rows whose products with a query are added up before they are added to the others, where tokens
/// go one by one.
const ROWS_OF_SUM: usize = 128;

/// Tokens that go through a strip together, one by one: their values and sums lie in registers.
pub(super) const AT_A_TIME: usize = 4;

/// The products of a block of tokens of a value head with a strip of N vectors.
#[derive(Clone, Copy)]
pub(super) struct OfBlock<'a, S> {
    pub(super) simd: S,
    pub(super) block: &'a Block,
    /// Tokens of the block.
    pub(super) count: usize,
    pub(super) mistake: Mistake,
}

impl<S: Simd> OfBlock<'_, S> {
    /// `u_t = beta_t (v_t - r_t - Σ_{j<t} (k'_t A_tj . k'_j) u_j)`, by forward substitution.
    #[inline(always)]
    pub(super) fn correct<const N: usize>(self, state: &[f32], values: &mut [f32]) {
        let Self { simd, block, count, .. } = self;
        let recall = block.recall().as_chunks::<ROWS>().0;
        let of_keys = block.of_keys.as_flattened().as_chunks::<ROWS>().0;
        let state = tiles::rows_of::<S, N>(state);
        let values = tiles::rows_of_mut::<S, N>(values);
        for first in (0..count).step_by(ROWS) {
            let zeros = tiles::zeros::<S, N>(simd);
            let (before, of_tile) = values.split_at_mut(first);
            let recall = (&recall[first / ROWS..], TOKENS / ROWS);
            let sums = tiles::multiply(simd, recall, state, zeros);
            let pairs = (&of_keys[first / ROWS..], TOKENS / ROWS);
            let sums = tiles::multiply(simd, pairs, &*before, sums);
            for (r, mut sums) in sums.into_iter().enumerate() {
                let (before, rest) = of_tile.split_at_mut(r);
                let pairs = block.of_keys[first..].iter().map(|pairs| pairs[first + r]);
                for (pair, before) in pairs.zip(&*before) {
                    tiles::add(simd, pair, before, &mut sums);
                }
                for (u, sum) in rest[0].iter_mut().zip(sums) {
                    *u = simd.sub_f32s(*u, sum);
                }
                rest[0] = tiles::scale(simd, block.betas[first + r], rest[0]);
            }
        }
    }

    /// `o_t = s ((q'_t P_t) S + Σ_{j<=t} (q'_t A_tj . k'_j) u_j) / denominator`, in rows of `o` that
    /// are `stride` apart.
    #[inline(always)]
    pub(super) fn outputs<const N: usize>(
        self,
        (state, values): (&[f32], &[f32]),
        (o, stride): (&mut [f32], usize),
        ahead: &mut Ahead<'_>,
    ) {
        let Self { simd, block, count, mistake } = self;
        let factors = block.queries.as_chunks::<ROWS>().0;
        let of_queries = block.of_queries.as_flattened().as_chunks::<ROWS>().0;
        let state = tiles::rows_of::<S, N>(state);
        let values = tiles::rows_of::<S, N>(values);
        for t in (0..count).step_by(ROWS) {
            ahead.fetch();
            let zeros = tiles::zeros::<S, N>(simd);
            let factors = (&factors[t / ROWS..], TOKENS / ROWS);
            let sums = tiles::multiply(simd, factors, state, zeros);
            let pairs = (&of_queries[t / ROWS..], TOKENS / ROWS);
            let mut sums = tiles::multiply(simd, pairs, &values[..t], sums);
            // Within the tile a token sees those up to itself.
            let pairs =
                of_queries[t * TOKENS / ROWS..].iter().skip(t / ROWS).step_by(TOKENS / ROWS);
            for ((j, value), pairs) in values[t..t + ROWS].iter().enumerate().zip(pairs) {
                for r in j + usize::from(mistake.is(Mutation::MaskOffByOne))..ROWS {
                    tiles::add(simd, pairs[r], value, &mut sums[r]);
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                let row = &mut o[(t + r) * stride..][..N * S::F32_LANES];
                tiles::rows_of_mut::<S, N>(row)[0] = tiles::scale(simd, block.factors[t + r], sums);
            }
        }
    }

    /// `S = P_n S + Σ_j (k'_j A_nj)^T u_j`, with the keys as they are added, `[tokens][width]`.
    /// `lost` is what rounding took from the state, empty where that is not made up for.
    #[inline(always)]
    pub(super) fn update<const N: usize>(
        self,
        (written, values): (&[f32], &[f32]),
        (state, lost): (&mut [f32], &mut [f32]),
        ahead: &mut Ahead<'_>,
    ) {
        let Self { simd, block, count, mistake } = self;
        let decays = !mistake.is(Mutation::DecayForgotten);
        let written = written.as_chunks::<ROWS>().0;
        let values = &tiles::rows_of::<S, N>(values)[..count];
        let state = tiles::rows_of_mut::<S, N>(state);
        let mut lost = tiles::rows_of_mut::<S, N>(lost).iter_mut();
        for (tile, rows) in state.chunks_mut(ROWS).enumerate() {
            ahead.fetch();
            let zeros = tiles::zeros::<S, N>(simd);
            let written = (&written[tile..], block.width / ROWS);
            let sums = tiles::multiply(simd, written, values, zeros);
            for (r, (row, sums)) in rows.iter_mut().zip(&sums).enumerate() {
                let kept = block.kept.get(tile * ROWS + r).copied().filter(|_| decays);
                tiles::accumulate(simd, kept, sums, row, lost.next());
            }
        }
    }
}

/// Rows of keys and queries, `[tokens][width]`, and of values, `of_token` apart.
#[derive(Clone, Copy)]
pub(super) struct OfTokens<'a> {
    pub(super) keys: &'a [f32],
    pub(super) queries: &'a [f32],
    pub(super) values: &'a [f32],
    pub(super) of_token: usize,
}

/// The tokens of a span and a strip of N vectors of the state.
#[derive(Clone, Copy)]
pub(super) struct OfSpan<'a, S> {
    pub(super) simd: S,
    /// The first token of the span in its block, and the one behind the last.
    pub(super) tokens: [usize; 2],
    pub(super) width: usize,
    /// The factor of each row of o.
    pub(super) factors: &'a [f32; TOKENS],
    pub(super) mistake: Mistake,
}

impl<S: Simd> OfSpan<'_, S> {
    /// Some tokens at a time, and the last ones alone. Rows of keys and queries are
    /// `[tokens][width]`, and those of values `of_token` apart. `entered`, if it is not empty, gets
    /// in place of the state what is added.
    #[inline(always)]
    pub(super) fn strip<const N: usize>(
        self,
        of: OfTokens<'_>,
        (state, entered): (&mut [f32], &mut [f32]),
        (o, stride): (&mut [f32], usize),
        ahead: &mut Ahead<'_>,
    ) {
        let [start, end] = self.tokens;
        let alone = end - (end - start) % AT_A_TIME;
        for first in (start..alone).step_by(AT_A_TIME) {
            let o = (&mut o[first * stride..], stride);
            if entered.is_empty() {
                self.tokens::<N, AT_A_TIME, false>(of, first, (&[], state), o, ahead);
            } else {
                self.tokens::<N, AT_A_TIME, true>(of, first, (state, entered), o, ahead);
            }
        }
        for first in alone..end {
            let o = (&mut o[first * stride..], stride);
            if entered.is_empty() {
                self.tokens::<N, 1, false>(of, first, (&[], state), o, ahead);
            } else {
                self.tokens::<N, 1, true>(of, first, (state, entered), o, ahead);
            }
        }
    }

    /// R tokens from `first` on: each row of the strip of sums gets what one of them adds and is read
    /// by it, with the base, if there is one, and then the next.
    #[inline(always)]
    fn tokens<const N: usize, const R: usize, const HAS_BASE: bool>(
        self,
        OfTokens { keys, queries, values, of_token }: OfTokens<'_>,
        first: usize,
        (base, sums): (&[f32], &mut [f32]),
        (o, stride): (&mut [f32], usize),
        ahead: &mut Ahead<'_>,
    ) {
        let Self { simd, width, factors, mistake, .. } = self;
        let misses_itself = mistake.is(Mutation::MaskOffByOne);
        let base = tiles::rows_of::<S, N>(base).as_chunks::<ROWS>().0;
        let state = tiles::rows_of_mut::<S, N>(sums).as_chunks_mut::<ROWS>().0;
        let (keys, queries) = (keys.as_chunks::<ROWS>().0, queries.as_chunks::<ROWS>().0);
        let zeros = tiles::zeros::<S, N>(simd);
        let of_row = width / ROWS;
        let mut sums = [[simd.splat_f32s(0.0); N]; R];
        let mut added = sums;
        let (mut of_keys, mut of_queries) = ([&keys[..0]; R], [&queries[..0]; R]);
        for r in 0..R {
            let row = &values[(first + r) * of_token..][..N * S::F32_LANES];
            added[r] = tiles::rows_of::<S, N>(row)[0];
            of_keys[r] = &keys[(first + r) * of_row..][..of_row];
            of_queries[r] = &queries[(first + r) * of_row..][..of_row];
        }
        // The error of a sum grows with the length of its parts.
        for begin in (0..of_row).step_by(ROWS_OF_SUM / ROWS) {
            let mut part = [[simd.splat_f32s(0.0); N]; R];
            let end = of_row.min(begin + ROWS_OF_SUM / ROWS);
            for (at, rows) in state[begin..end].iter_mut().enumerate() {
                let at = begin + at;
                ahead.fetch();
                let (mut k, mut q) = ([&[0.0; ROWS]; R], [&[0.0; ROWS]; R]);
                for r in 0..R {
                    (k[r], q[r]) = (&of_keys[r][at], &of_queries[r][at]);
                }
                let base = if HAS_BASE { &base[at] } else { &zeros };
                for (f, (row, base)) in rows.iter_mut().zip(base).enumerate() {
                    let mut x = *row;
                    for r in 0..R {
                        let before = x;
                        tiles::add(simd, k[r][f], &added[r], &mut x);
                        let mut seen = if misses_itself { before } else { x };
                        if HAS_BASE {
                            for (seen, base) in seen.iter_mut().zip(base) {
                                *seen = simd.add_f32s(*base, *seen);
                            }
                        }
                        tiles::add(simd, q[r][f], &seen, &mut part[r]);
                    }
                    *row = x;
                }
            }
            for (sums, part) in sums.iter_mut().zip(part) {
                for (sum, part) in sums.iter_mut().zip(part) {
                    *sum = simd.add_f32s(*sum, part);
                }
            }
        }
        for (r, sums) in sums.into_iter().enumerate() {
            let row = &mut o[r * stride..][..N * S::F32_LANES];
            tiles::rows_of_mut::<S, N>(row)[0] = tiles::scale(simd, factors[first + r], sums);
        }
    }
}

//! The passes of a block of tokens over a strip of a state: the work of the engine.

use pulp::Simd;

use crate::cpu::ahead::Ahead;
use crate::cpu::block::Block;
use crate::cpu::mutation::{Mistake, Mutation};
use crate::cpu::tiles::{self, ROWS, TOKENS};

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

    /// The same two for a rule without decays, token by token: some tokens at a time, each row of
    /// the strip gets what one of them adds and is read by it, and then the next. Rows of keys and
    /// queries are `[tokens][width]`, and those of values `of_token` apart; of as many tokens as go
    /// together keys and values behind the last are 0. `entered`, if it is not empty, gets in place
    /// of the state what is added.
    #[inline(always)]
    pub(super) fn one_by_one<const N: usize>(
        self,
        of: ([&[f32]; 2], (&[f32], usize)),
        (state, entered): (&mut [f32], &mut [f32]),
        o: (&mut [f32], usize),
        ahead: &mut Ahead<'_>,
    ) {
        if entered.is_empty() {
            self.pass_one_by_one::<N, false>(of, (&[], state), o, ahead);
        } else {
            self.pass_one_by_one::<N, true>(of, (state, entered), o, ahead);
        }
    }

    /// Tokens are added to `sums`, which they read with the base, if there is one.
    #[inline(always)]
    fn pass_one_by_one<const N: usize, const HAS_BASE: bool>(
        self,
        ([keys, queries], (values, of_token)): ([&[f32]; 2], (&[f32], usize)),
        (base, sums): (&[f32], &mut [f32]),
        (o, stride): (&mut [f32], usize),
        ahead: &mut Ahead<'_>,
    ) {
        let Self { simd, block, count, mistake } = self;
        let width = block.width;
        let misses_itself = mistake.is(Mutation::MaskOffByOne);
        let base = tiles::rows_of::<S, N>(base).as_chunks::<ROWS>().0;
        let state = tiles::rows_of_mut::<S, N>(sums).as_chunks_mut::<ROWS>().0;
        let zeros = tiles::zeros::<S, N>(simd);
        let (keys, queries) = (keys.as_chunks::<ROWS>().0, queries.as_chunks::<ROWS>().0);
        let of_row = width / ROWS;
        for first in (0..count).step_by(AT_A_TIME) {
            let mut sums = [[simd.splat_f32s(0.0); N]; AT_A_TIME];
            let mut added = sums;
            let (mut of_keys, mut of_queries) =
                ([&keys[..0]; AT_A_TIME], [&queries[..0]; AT_A_TIME]);
            for r in 0..AT_A_TIME {
                let row = &values[(first + r) * of_token..][..N * S::F32_LANES];
                added[r] = tiles::rows_of::<S, N>(row)[0];
                of_keys[r] = &keys[(first + r) * of_row..][..of_row];
                of_queries[r] = &queries[(first + r) * of_row..][..of_row];
            }
            for (at, rows) in state.iter_mut().enumerate().take(of_row) {
                ahead.fetch();
                let (mut k, mut q) = ([&[0.0; ROWS]; AT_A_TIME], [&[0.0; ROWS]; AT_A_TIME]);
                for r in 0..AT_A_TIME {
                    (k[r], q[r]) = (&of_keys[r][at], &of_queries[r][at]);
                }
                let base = if HAS_BASE { &base[at] } else { &zeros };
                for (f, (row, base)) in rows.iter_mut().zip(base).enumerate() {
                    let mut x = *row;
                    for r in 0..AT_A_TIME {
                        let before = x;
                        tiles::add(simd, k[r][f], &added[r], &mut x);
                        let mut seen = if misses_itself { before } else { x };
                        if HAS_BASE {
                            for (seen, base) in seen.iter_mut().zip(base) {
                                *seen = simd.add_f32s(*base, *seen);
                            }
                        }
                        tiles::add(simd, q[r][f], &seen, &mut sums[r]);
                    }
                    *row = x;
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                let row = &mut o[(first + r) * stride..][..N * S::F32_LANES];
                tiles::rows_of_mut::<S, N>(row)[0] =
                    tiles::scale(simd, block.factors[first + r], sums);
            }
        }
    }
}

//! A block of tokens of the forward pass without maps and quotient, whatever the roles of the rows.

use pulp::Simd;

use crate::cpu::aligned::Aligned;
use crate::cpu::backward::products::{PAIR_TILES, are_wide};
use crate::cpu::mutation::{Mistake, Mutation};
use crate::cpu::pairs::{Pairs, products, transpose};
use crate::cpu::rows::TOKENS;
use crate::cpu::tiles::{self, ROWS};

/// The memory of products.
pub(super) struct Product {
    /// `[width][TOKENS]`.
    transposed: Aligned,
    pairs: Box<Pairs>,
    mistake: Mistake,
}

impl Product {
    pub(super) fn new(width: usize, mistake: Mistake) -> Self {
        let transposed = Aligned::zeros(width * TOKENS);
        Self { transposed, pairs: Box::new([[0.0; TOKENS]; TOKENS]), mistake }
    }

    /// `o_i = q_i S + Σ_{j<=i} (q_i . k_j) v_j` of `count` tokens, then `S += Σ_j k_j^T v_j`. The
    /// rows q and k and those of v are of these widths, and S is `[widths[0]][widths[1]]`.
    #[inline(always)]
    pub(super) fn run<S: Simd>(
        &mut self,
        simd: S,
        count: usize,
        [q, k, v]: [&[f32]; 3],
        widths: [usize; 2],
        state: &mut [f32],
        o: &mut [f32],
    ) {
        let transposed = &mut self.transposed[..widths[0] * TOKENS];
        transpose(q, widths[0], count, transposed);
        products(simd, (k, widths[0]), transposed, count, &mut self.pairs);
        if are_wide::<S>(widths[1]) {
            self.tokens::<S, 2>(simd, count, [k, v], widths, state, o);
        } else {
            self.tokens::<S, 1>(simd, count, [k, v], widths, state, o);
        }
    }

    #[inline(always)]
    fn tokens<S: Simd, const N: usize>(
        &self,
        simd: S,
        count: usize,
        [k, v]: [&[f32]; 2],
        [inner, width]: [usize; 2],
        state: &mut [f32],
        o: &mut [f32],
    ) {
        let strips = width / (N * S::F32_LANES);
        let values = tiles::rows_of::<S, N>(v);
        let state = tiles::rows_of_mut::<S, N>(&mut state[..inner * width]);
        self.read(simd, count, strips, values, state, tiles::rows_of_mut::<S, N>(o));
        if count < TOKENS && self.mistake.is(Mutation::RaggedBlockSkipped) {
            return;
        }
        let factors = k.as_chunks::<ROWS>().0;
        for (strip, tile) in
            (0..strips).flat_map(|strip| (0..inner / ROWS).map(move |i| (strip, i)))
        {
            let values = values[strip..].iter().step_by(strips).take(count);
            let zeros = tiles::zeros::<S, N>(simd);
            let sums = tiles::multiply(simd, (&factors[tile..], inner / ROWS), values, zeros);
            let rows = state[tile * ROWS * strips + strip..].iter_mut().step_by(strips);
            for (row, sums) in rows.zip(sums) {
                for (x, sum) in row.iter_mut().zip(sums) {
                    *x = simd.add_f32s(*x, sum);
                }
            }
        }
        if self.mistake.is(Mutation::StateNotCarried) {
            state.fill([simd.splat_f32s(0.0); N]);
        }
    }

    #[inline(always)]
    fn read<S: Simd, const N: usize>(
        &self,
        simd: S,
        count: usize,
        strips: usize,
        values: &[[S::f32s; N]],
        state: &[[S::f32s; N]],
        o: &mut [[S::f32s; N]],
    ) {
        let queries = self.transposed.as_chunks::<ROWS>().0;
        let pairs = self.pairs.as_flattened().as_chunks::<ROWS>().0;
        let hidden = usize::from(self.mistake.is(Mutation::MaskOffByOne));
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let tile = first / ROWS;
                let of_strip = state[strip..].iter().step_by(strips);
                let zeros = tiles::zeros::<S, N>(simd);
                let sums = tiles::multiply(simd, (&queries[tile..], PAIR_TILES), of_strip, zeros);
                let before = values[strip..].iter().step_by(strips).take(first);
                let mut sums = tiles::multiply(simd, (&pairs[tile..], PAIR_TILES), before, sums);
                // Within the tile a token sees those up to itself.
                for j in 0..ROWS {
                    let value = &values[(first + j) * strips + strip];
                    let of_token = &pairs[(first + j) * PAIR_TILES + tile];
                    for r in j + hidden..ROWS {
                        tiles::add(simd, of_token[r], value, &mut sums[r]);
                    }
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    o[(first + r) * strips + strip] = sums;
                }
            }
        }
    }
}

//! A block of tokens of the forward pass without maps and quotient, whatever the roles of the rows.

use pulp::Simd;

use crate::cpu::aligned::Aligned;
use crate::cpu::backward::products::{Accumulate, OnStrips, PAIR_TILES, on_strips};
use crate::cpu::mutation::{Mistake, Mutation};
use crate::cpu::pairs::{Pairs, products};
use crate::cpu::tiles::{self, ROWS, TOKENS};
use crate::cpu::transpose::transpose;

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
        transpose(simd, q, [count, widths[0]], (transposed, TOKENS));
        products(simd, (k, widths[0]), transposed, count, &mut self.pairs);
        let (rows, width) = ((v, widths[1]), widths[1]);
        on_strips(simd, width, Read { of: self, count, values: v, state, to: (o, width) });
        if count < TOKENS && self.mistake.is(Mutation::RaggedBlockSkipped) {
            return;
        }
        let columns = (k, widths[0]);
        on_strips(simd, width, Accumulate { count, decay: None, columns, rows, state });
        if self.mistake.is(Mutation::StateNotCarried) {
            state.fill(0.0);
        }
    }
}

/// o, of the queries and pairs that the product has.
struct Read<'a> {
    of: &'a Product,
    count: usize,
    values: &'a [f32],
    state: &'a [f32],
    to: (&'a mut [f32], usize),
}

impl OnStrips for Read<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let Self { of: Product { transposed, pairs, mistake }, count, to: (o, width), .. } = self;
        let strips = width / (N * S::F32_LANES);
        let values = tiles::rows_of::<S, N>(self.values);
        let state = tiles::rows_of::<S, N>(self.state);
        let o = tiles::rows_of_mut::<S, N>(o);
        let queries = transposed.as_chunks::<ROWS>().0;
        let pairs = pairs.as_flattened().as_chunks::<ROWS>().0;
        let hidden = usize::from(mistake.is(Mutation::MaskOffByOne));
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

//! Products of the tokens of a block with one another.

use pulp::{Simd, WithSimd};

use crate::cpu::fused::mul_add;
use crate::cpu::tiles::{self, TOKENS};

/// `[j][t]`: something of each pair of tokens, of which t >= j matter.
pub(super) type Pairs = [[f32; TOKENS]; TOKENS];

/// `[j][t]`: all bits where j <= t, none elsewhere.
pub(super) const UP_TO: [[u32; TOKENS]; TOKENS] = {
    let mut masks = [[0; TOKENS]; TOKENS];
    let mut i = 0;
    while i < TOKENS * TOKENS {
        if i / TOKENS <= i % TOKENS {
            masks[i / TOKENS][i % TOKENS] = u32::MAX;
        }
        i += 1;
    }
    masks
};

/// Multiplies each pair by another number of it.
#[inline(always)]
pub(super) fn multiply_pairs(pairs: &mut Pairs, by: &Pairs, count: usize) {
    // One loop: of nested ones the compiler makes gathers.
    let pairs = pairs.as_flattened_mut().iter_mut().zip(by.as_flattened());
    for (pair, by) in pairs.take(count * TOKENS) {
        *pair *= by;
    }
}

/// `[j][t]`: the products of rows of tokens j, `[tokens][width]`, with those of tokens t,
/// `[width][TOKENS]`.
#[inline(always)]
pub(super) fn products<S: Simd>(
    simd: S,
    (rows, width): (&[f32], usize),
    of_t: &[f32],
    count: usize,
    pairs: &mut Pairs,
) {
    // A function by itself, since many call it.
    simd.vectorize(Products { rows: (rows, width), of_t, count, pairs });
}

struct Products<'a> {
    rows: (&'a [f32], usize),
    of_t: &'a [f32],
    count: usize,
    pairs: &'a mut Pairs,
}

impl WithSimd for Products<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        const R: usize = 8;
        let Self { rows, of_t, count, pairs } = self;
        for first in (0..count).step_by(R) {
            // No t before `first` matters: its vectors are left out, one of them alone.
            let begin = first / S::F32_LANES;
            if begin % 2 == 1 {
                products_of_rows::<S, 1, R>(simd, rows, of_t, [first, begin], pairs);
            }
            for strip in begin.div_ceil(2)..count.div_ceil(2 * S::F32_LANES) {
                for first in [first, first + R / 2] {
                    let at = [first, strip];
                    products_of_rows::<S, 2, { R / 2 }>(simd, rows, of_t, at, pairs);
                }
            }
        }
    }
}

/// Of R rows, with N vectors of tokens t.
#[inline(always)]
fn products_of_rows<S: Simd, const N: usize, const R: usize>(
    simd: S,
    (rows, width): (&[f32], usize),
    of_t: &[f32],
    [first, strip]: [usize; 2],
    pairs: &mut Pairs,
) {
    let nth = TOKENS / (N * S::F32_LANES);
    let rows: [&[f32]; R] = std::array::from_fn(|r| &rows[(first + r) * width..][..width]);
    let zeros = [[simd.splat_f32s(0.0); N]; R];
    let strip_of_t = (&tiles::rows_of::<S, N>(of_t)[strip..], nth);
    let sums = tiles::multiply_rows(simd, rows, strip_of_t, zeros);
    let pairs = tiles::rows_of_mut::<S, N>(pairs.as_flattened_mut());
    for (r, sums) in sums.into_iter().enumerate() {
        pairs[(first + r) * nth + strip] = sums;
    }
}

/// A sum of products, in sixteen sums that become vectors.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut sums = [0.0f32; 16];
    let (a, a_rest) = a.as_chunks::<16>();
    let (b, b_rest) = b.as_chunks::<16>();
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = mul_add(*a, *b, *sum);
        }
    }
    for ((sum, a), b) in sums.iter_mut().zip(a_rest).zip(b_rest) {
        *sum = mul_add(*a, *b, *sum);
    }
    let mut half = 8;
    while half > 0 {
        let (first, second) = sums.split_at_mut(half);
        for (first, second) in first.iter_mut().zip(second) {
            *first += *second;
        }
        half /= 2;
    }
    sums[0]
}

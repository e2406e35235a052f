//! nu of a value head, through a block of tokens.

use std::ops::Range;

use pulp::Simd;

use crate::cpu::fused::mul_add;
use crate::cpu::tiles::TOKENS;

/// Queries that read nu together: their sums lie in registers.
const AT_A_TIME: usize = 4;

/// What the queries of a block find.
#[derive(Debug)]
pub(super) struct Found {
    /// `q'_t . nu_t`.
    pub(super) weights: [f32; TOKENS],
    /// The largest absolute value of q'_t.
    pub(super) largest: [f32; TOKENS],
}

/// Each query of some tokens of a block reads nu with the keys up to its own, token by token.
/// `added` becomes the sum of all keys. Rows are `width` apart.
#[inline(always)]
pub(super) fn read<S: Simd>(
    simd: S,
    rows: [&[f32]; 2],
    (width, Range { start, end }): (usize, Range<usize>),
    (nu, added): (&[f32], &mut [f32]),
) -> Found {
    let mut found = Found { weights: [0.0; TOKENS], largest: [0.0; TOKENS] };
    added.fill(0.0);
    let alone = end - (end - start) % AT_A_TIME;
    for first in (start..alone).step_by(AT_A_TIME) {
        found.add::<S, AT_A_TIME>(simd, rows, [width, first], (nu, added));
    }
    for first in alone..end {
        found.add::<S, 1>(simd, rows, [width, first], (nu, added));
    }
    found
}

impl Found {
    /// The same of R tokens from `first` on, which add to `added`.
    #[inline(always)]
    fn add<S: Simd, const R: usize>(
        &mut self,
        simd: S,
        [keys, queries]: [&[f32]; 2],
        [width, first]: [usize; 2],
        (nu, added): (&[f32], &mut [f32]),
    ) {
        let features = nu.len();
        let (nu, rest_of_nu) = S::as_simd_f32s(nu);
        let (added, rest_added) = S::as_mut_simd_f32s(added);
        let zero = simd.splat_f32s(0.0);
        let (mut of_keys, mut of_queries) = ([(nu, rest_of_nu); R], [(nu, rest_of_nu); R]);
        for r in 0..R {
            let begin = (first + r) * width;
            of_keys[r] = S::as_simd_f32s(&keys[begin..][..features]);
            of_queries[r] = S::as_simd_f32s(&queries[begin..][..features]);
        }
        let mut reads = [Sums { sum: zero, largest: zero }; R];
        for (at, (added, nu)) in added.iter_mut().zip(nu).enumerate() {
            for (r, read) in reads.iter_mut().enumerate() {
                *added = simd.add_f32s(*added, of_keys[r].0[at]);
                read.add(simd, of_queries[r].0[at], simd.add_f32s(*nu, *added));
            }
        }
        if !rest_added.is_empty() {
            let nu = simd.partial_load_f32s(rest_of_nu);
            let mut added = simd.partial_load_f32s(rest_added);
            for (r, read) in reads.iter_mut().enumerate() {
                added = simd.add_f32s(added, simd.partial_load_f32s(of_keys[r].1));
                let q = simd.partial_load_f32s(of_queries[r].1);
                read.add(simd, q, simd.add_f32s(nu, added));
            }
            simd.partial_store_f32s(rest_added, added);
        }
        for (r, read) in reads.into_iter().enumerate() {
            self.weights[first + r] = simd.reduce_sum_f32s(read.sum);
            self.largest[first + r] = simd.reduce_max_f32s(read.largest);
        }
    }
}

/// What a query finds in each lane.
#[derive(Clone, Copy)]
struct Sums<V> {
    sum: V,
    largest: V,
}

impl<V: Copy> Sums<V> {
    #[inline(always)]
    fn add<S: Simd<f32s = V>>(&mut self, simd: S, q: V, nu: V) {
        self.sum = simd.mul_add_e_f32s(q, nu, self.sum);
        self.largest = simd.max_f32s(self.largest, simd.abs_f32s(q));
    }
}

/// Adds what entered to nu, of which the tokens keep `kept`, less 1: all where that is empty. `lost`
/// is what rounding took from nu: Kahan's compensation.
#[inline(always)]
pub(super) fn accumulate(added: &[f32], kept: &[f32], nu: &mut [f32], lost: &mut [f32]) {
    let all = nu.iter_mut().zip(lost).zip(added);
    if kept.is_empty() {
        for ((nu, lost), added) in all {
            add(*added, nu, lost);
        }
        return;
    }
    for (((nu, lost), added), kept) in all.zip(kept) {
        let added = mul_add(*kept, *nu, *added);
        *lost = mul_add(*kept, *lost, *lost);
        add(added, nu, lost);
    }
}

/// The same of an element, all of which is kept.
#[inline(always)]
pub(super) fn add(added: f32, nu: &mut f32, lost: &mut f32) {
    let added = added - *lost;
    let next = *nu + added;
    *lost = (next - *nu) - added;
    *nu = next;
}

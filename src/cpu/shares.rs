//! The state of a value head behind a span of tokens: what is kept of it, and what has been added.

use std::ops::Range;

use pulp::Simd;

use crate::cpu::call::Call;
use crate::cpu::fused::mul_add;
use crate::cpu::nu;
use crate::cpu::tiles;

/// The share of a number that is kept.
#[derive(Clone, Copy, Debug)]
pub(super) enum Share {
    /// Most of it: this number less 1.
    Most(f32),
    Some(f32),
}

impl Share {
    pub(super) const ALL: Self = Self::Most(0.0);

    /// Of p, and p - 1.
    #[inline(always)]
    pub(super) fn new(p: f32, kept: f32) -> Self {
        if p > 0.5 { Self::Most(kept) } else { Self::Some(p) }
    }

    /// The share of a sum and of what is added, together; `lost` is what rounding took from the sum.
    #[inline(always)]
    fn settle(self, added: f32, sum: &mut f32, lost: &mut f32) {
        match self {
            Self::Most(kept) => {
                let added = mul_add(kept, *sum, mul_add(kept, added, added));
                *lost = mul_add(kept, *lost, *lost);
                nu::add(added, sum, lost);
            }
            Self::Some(p) => {
                (*sum, *lost) = (p * *sum, p * *lost);
                nu::add(p * added, sum, lost);
            }
        }
    }

    /// The share of vectors.
    #[inline(always)]
    fn take<S: Simd>(self, simd: S, row: &mut [[S::f32s; 1]]) {
        match self {
            Self::Most(kept) => {
                for x in row {
                    let before = *x;
                    tiles::add(simd, kept, &before, x);
                }
            }
            Self::Some(p) => {
                for x in row {
                    *x = tiles::scale(simd, p, *x);
                }
            }
        }
    }

    /// The same as [`Share::settle`] of vectors.
    #[inline(always)]
    fn settle_vector<S: Simd>(
        self,
        simd: S,
        added: [S::f32s; 1],
        sum: &mut [S::f32s; 1],
        lost: &mut [S::f32s; 1],
    ) {
        match self {
            Self::Most(kept) => {
                let mut share = added;
                tiles::add(simd, kept, &added, &mut share);
                tiles::accumulate(simd, Some(kept), &share, sum, Some(lost));
            }
            Self::Some(p) => {
                (*sum, *lost) = (tiles::scale(simd, p, *sum), tiles::scale(simd, p, *lost));
                tiles::accumulate(simd, None, &tiles::scale(simd, p, added), sum, Some(lost));
            }
        }
    }
}

/// The state of a value head.
pub(super) struct State<'a> {
    pub(super) mu: &'a mut [f32],
    /// What has entered and is not in mu yet, and what rounding took from mu: empty where a sequence
    /// is short.
    pub(super) entered: &'a mut [f32],
    pub(super) lost: &'a mut [f32],
    pub(super) nu: &'a mut [f32],
    pub(super) lost_nu: &'a mut [f32],
    pub(super) columns: usize,
}

impl State<'_> {
    /// Takes the shares of mu's rows, of `width` rows with those that are not used, and of what has
    /// entered, which is added: all where there are none.
    #[inline(always)]
    pub(super) fn settle_mu<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        shares: &[Share],
        width: usize,
    ) {
        let zero = [simd.splat_f32s(0.0)];
        for strip in call.strips.of(self.columns) {
            let (rows, vectors) = (strip.rows(width), strip.width / S::F32_LANES);
            let entered = tiles::rows_of_mut::<S, 1>(part(self.entered, &rows));
            let lost = tiles::rows_of_mut::<S, 1>(part(self.lost, &rows));
            let mu = tiles::rows_of_mut::<S, 1>(&mut self.mu[rows]);
            let is_short = entered.is_empty();
            let mut others = entered.iter_mut().zip(lost);
            for (f, row) in mu.chunks_mut(vectors).enumerate() {
                let share = shares.get(f).copied().unwrap_or(Share::ALL);
                if is_short {
                    share.take(simd, row);
                    continue;
                }
                for (x, (entered, lost)) in row.iter_mut().zip(&mut others) {
                    share.settle_vector(simd, std::mem::replace(entered, zero), x, lost);
                }
            }
        }
    }

    /// The same of nu, to which `added` is added.
    #[inline(always)]
    pub(super) fn settle_nu(&mut self, shares: &[Share], added: &[f32]) {
        let all = self.nu.iter_mut().zip(self.lost_nu.iter_mut()).zip(added);
        if shares.is_empty() {
            for ((nu, lost), added) in all {
                nu::add(*added, nu, lost);
            }
            return;
        }
        for (((nu, lost), added), share) in all.zip(shares) {
            share.settle(*added, nu, lost);
        }
    }
}

/// A part of a slice, empty where that is.
pub(super) fn part<'a>(all: &'a mut [f32], part: &Range<usize>) -> &'a mut [f32] {
    all.get_mut(part.clone()).unwrap_or_default()
}

//! Sums and products of rows, in loops that become vectors.

use pulp::Simd;

use crate::cpu::exp::exp_m1;
use crate::cpu::fused::mul_add;
use crate::cpu::tiles;

/// `to += factor x`.
#[inline(always)]
pub(super) fn add(to: &mut [f32], factor: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = mul_add(factor, *x, *to);
    }
}

#[inline(always)]
pub(super) fn scale(x: &mut [f32], by: f32) {
    for x in x {
        *x *= by;
    }
}

/// exp(decay), as a sum that keeps its digits: 1 and exp(decay) - 1 where a decay is near 0, else 0
/// and exp(decay). Gradients by strong decays are products with it.
#[derive(Clone, Copy, Default)]
pub(super) struct DecayFactor {
    whole: f32,
    rest: f32,
}

impl DecayFactor {
    /// No decay.
    pub(super) const ONE: Self = Self { whole: 1.0, rest: 0.0 };

    #[inline(always)]
    pub(super) fn new(decay: f32) -> Self {
        match decay < -0.5 {
            true => Self { whole: 0.0, rest: decay.exp() },
            false => Self { whole: 1.0, rest: exp_m1(decay) },
        }
    }

    #[inline(always)]
    pub(super) fn value(self) -> f32 {
        self.whole + self.rest
    }

    #[inline(always)]
    pub(super) fn whole(self) -> f32 {
        self.whole
    }

    #[inline(always)]
    pub(super) fn rest(self) -> f32 {
        self.rest
    }

    /// That of both decays.
    #[inline(always)]
    pub(super) fn and(self, other: Self) -> Self {
        let rest = mul_add(other.rest, self.value(), self.rest);
        match self.whole * other.whole == 1.0 && rest > -0.5 {
            true => Self { whole: 1.0, rest },
            false => Self { whole: 0.0, rest: other.times(self.value()) },
        }
    }

    /// `sums += exp(decay) x`.
    #[inline(always)]
    pub(super) fn add_to<S: Simd, const N: usize>(
        self,
        simd: S,
        x: &[S::f32s; N],
        sums: &mut [S::f32s; N],
    ) {
        // In this order: what is added is rounded once where a state does not decay.
        tiles::add(simd, self.rest, x, sums);
        tiles::add(simd, self.whole, x, sums);
    }

    /// exp(decay) x.
    #[inline(always)]
    pub(super) fn times(self, x: f32) -> f32 {
        mul_add(self.rest, x, self.whole * x)
    }
}

/// In sixteen sums, which are vectors.
#[inline(always)]
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const N: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<N>(), b.as_chunks::<N>());
    let mut sums = [0.0f32; N];
    for (a, b) in a.iter().zip(b) {
        for i in 0..N {
            sums[i] = mul_add(a[i], b[i], sums[i]);
        }
    }
    let mut half = [0.0f32; N / 2];
    for i in 0..N / 2 {
        half[i] = sums[i] + sums[i + N / 2];
    }
    let mut sum =
        (half[0] + half[4]) + (half[1] + half[5]) + ((half[2] + half[6]) + (half[3] + half[7]));
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum = mul_add(*a, *b, sum);
    }
    sum
}

/// The same of rows that are whole vectors.
#[inline(always)]
pub(super) fn dot_of_vectors<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a, b) = (S::as_simd_f32s(a).0, S::as_simd_f32s(b).0);
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<4>(), b.as_chunks::<4>());
    let mut sums = [simd.splat_f32s(0.0); 4];
    for (a, b) in a.iter().zip(b) {
        for i in 0..4 {
            sums[i] = simd.mul_add_e_f32s(a[i], b[i], sums[i]);
        }
    }
    for (a, b) in a_rest.iter().zip(b_rest) {
        sums[0] = simd.mul_add_e_f32s(*a, *b, sums[0]);
    }
    let [a, b, c, d] = sums;
    simd.reduce_sum_f32s(simd.add_f32s(simd.add_f32s(a, b), simd.add_f32s(c, d)))
}

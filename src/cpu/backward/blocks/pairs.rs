//! Pairs of tokens of a block, `[j][t]`, element by element.

use pulp::Simd;

use crate::cpu::fused::mul_add;
use crate::cpu::pairs::{Pairs, UP_TO};
use crate::cpu::tiles::TOKENS;

/// All bits of the pairs that matter.
pub(super) type Mask = [[u32; TOKENS]; TOKENS];

/// `[j][t]`: all bits where j < t, none elsewhere.
pub(super) const BEFORE: Mask = {
    let mut masks = UP_TO;
    let mut i = 0;
    while i < TOKENS {
        masks[i][i] = 0;
        i += 1;
    }
    masks
};

// Loops go over all elements, or over vectors: of nested ones the compiler makes gathers.

/// Makes all pairs 0 but those of a mask.
#[inline(always)]
pub(super) fn hide(pairs: &mut Pairs, mask: &Mask, count: usize) {
    let masks = mask.as_flattened().iter();
    for (pair, mask) in pairs.as_flattened_mut().iter_mut().zip(masks).take(count * TOKENS) {
        *pair = f32::from_bits(pair.to_bits() & mask);
    }
}

/// Multiplies pairs by their decays; others than the mask has become 0.
#[inline(always)]
pub(super) fn decay(pairs: &mut Pairs, decays: &Pairs, mask: &Mask, count: usize) {
    let (masks, decays) = (mask.as_flattened().iter(), decays.as_flattened());
    let pairs = pairs.as_flattened_mut().iter_mut().zip(decays).zip(masks);
    for ((pair, decay), mask) in pairs.take(count * TOKENS) {
        *pair = f32::from_bits(pair.to_bits() & mask) * decay;
    }
}

/// Adds the products of pairs with other pairs.
#[inline(always)]
pub(super) fn add_products(to: &mut Pairs, a: &Pairs, b: &Pairs, count: usize) {
    let all = to.as_flattened_mut().iter_mut().zip(a.as_flattened()).zip(b.as_flattened());
    for ((to, a), b) in all.take(count * TOKENS) {
        *to = mul_add(*a, *b, *to);
    }
}

/// Adds each token's sum over the tokens up to it, of pairs that are 0 elsewhere.
#[inline(always)]
pub(super) fn add_sums<S: Simd>(simd: S, to: &mut [f32; TOKENS], pairs: &Pairs, count: usize) {
    let to = S::as_mut_simd_f32s(to).0;
    for pairs in pairs.iter().take(count) {
        for (to, pair) in to.iter_mut().zip(S::as_simd_f32s(pairs).0) {
            *to = simd.add_f32s(*to, *pair);
        }
    }
}

/// The same of the products of two pairs.
#[inline(always)]
pub(super) fn add_sums_of_products<S: Simd>(
    simd: S,
    to: &mut [f32; TOKENS],
    (a, b): (&Pairs, &Pairs),
    count: usize,
) {
    let to = S::as_mut_simd_f32s(to).0;
    for (a, b) in a.iter().zip(b).take(count) {
        let pairs = S::as_simd_f32s(a).0.iter().zip(S::as_simd_f32s(b).0);
        for (to, (a, b)) in to.iter_mut().zip(pairs) {
            *to = simd.mul_add_e_f32s(*a, *b, *to);
        }
    }
}

/// Takes a number off all pairs of a token t.
#[inline(always)]
pub(super) fn subtract<S: Simd>(
    simd: S,
    pairs: &mut Pairs,
    of_tokens: &[f32; TOKENS],
    count: usize,
) {
    for pairs in pairs.iter_mut().take(count) {
        let pairs = S::as_mut_simd_f32s(pairs).0;
        for (pair, x) in pairs.iter_mut().zip(S::as_simd_f32s(of_tokens).0) {
            *pair = simd.sub_f32s(*pair, *x);
        }
    }
}

/// What tokens write and others read, as numbers whose sums are the gradients by decays: a token's
/// is the sum over all that is written before it and read from it on, so that nothing is
/// subtracted, and no digits are lost.
pub(super) struct Exchanges {
    /// `[j][t]`: written by token j, read by token t, if t > j.
    pub(super) within: Box<Pairs>,
    /// Written before the block, read by token t.
    pub(super) from_before: [f32; TOKENS],
    /// Written by token j, read behind the block.
    pub(super) to_behind: [f32; TOKENS],
    /// Written before the block, read behind it.
    pub(super) across: f32,
}

impl Exchanges {
    pub(super) fn new() -> Self {
        let none = [0.0; TOKENS];
        Self {
            within: Box::new([[0.0; TOKENS]; TOKENS]),
            from_before: none,
            to_behind: none,
            across: 0.0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.within.as_flattened_mut().fill(0.0);
        self.from_before.fill(0.0);
    }

    /// The gradients by the decays of `count` tokens. With `is_late` a token's own write is taken
    /// for one before it, which is a mistake.
    #[inline(always)]
    pub(super) fn sums(&self, count: usize, is_late: bool) -> [f32; TOKENS] {
        let mut is_there = [0u32; TOKENS];
        is_there[..count].fill(u32::MAX);
        let (mut found, mut written, mut behind) = ([0.0; TOKENS], self.from_before, self.across);
        for t in 0..count {
            let mut read = [0.0f32; TOKENS];
            let masks = UP_TO[t].iter().zip(&is_there);
            for ((read, x), (from_on, is_there)) in read.iter_mut().zip(&written).zip(masks) {
                *read = f32::from_bits(x.to_bits() & from_on & is_there);
            }
            found[t] = sum(read) + behind;
            for (written, pair) in written.iter_mut().zip(&self.within[t]) {
                *written += *pair;
            }
            behind += self.to_behind[t];
            if is_late {
                found[t] += self.to_behind[t] + self.within[t][t + 1..count].iter().sum::<f32>();
            }
        }
        found
    }
}

/// In halves, which are vectors.
#[inline(always)]
fn sum(mut x: [f32; TOKENS]) -> f32 {
    let mut half = TOKENS / 2;
    while half > 0 {
        for i in 0..half {
            x[i] += x[i + half];
        }
        half /= 2;
    }
    x[0]
}

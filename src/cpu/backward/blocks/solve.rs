//! What a delta rule writes, and the gradients by it: triangular systems of a block of tokens.

use pulp::Simd;

use crate::cpu::backward::products::{OnStrips, load, pairs_of_tile, rows_of_tile};
use crate::cpu::pairs::Pairs;
use crate::cpu::tiles::{self, ROWS, TOKENS};

/// `e_t = v_t - P_t k_t S - Σ_{j<t} L_jt u_j` and `u_t = beta_t e_t`, of which u goes where v is,
/// by forward substitution.
pub(super) struct Write<'a> {
    pub(super) count: usize,
    pub(super) keys: (&'a [f32], usize),
    /// P.
    pub(super) decays: &'a [f32; TOKENS],
    pub(super) state: &'a [f32],
    /// L: the decayed products of keys.
    pub(super) pairs: &'a Pairs,
    pub(super) betas: &'a [f32; TOKENS],
    pub(super) values: (&'a mut [f32], usize),
    pub(super) entered: &'a mut [f32],
}

impl OnStrips for Write<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let Self { count, keys: (keys, inner), decays, pairs, betas, .. } = self;
        let (values, width) = self.values;
        let strips = width / (N * S::F32_LANES);
        let state = tiles::rows_of::<S, N>(&self.state[..inner * width]);
        let values = tiles::rows_of_mut::<S, N>(values);
        let entered = tiles::rows_of_mut::<S, N>(self.entered);
        for strip in 0..strips {
            for first in (0..count).step_by(ROWS) {
                let keys = rows_of_tile(keys, inner, first);
                let zeros = tiles::zeros::<S, N>(simd);
                let recalled = tiles::multiply_rows(simd, keys, (&state[strip..], strips), zeros);
                for (r, sums) in recalled.into_iter().enumerate() {
                    let t = first + r;
                    let mut sums = tiles::scale(simd, decays[t], sums);
                    let before = values[strip..].iter().step_by(strips).take(t);
                    for (pairs, u) in pairs.iter().zip(before) {
                        tiles::add(simd, pairs[t], u, &mut sums);
                    }
                    let value = &mut values[t * strips + strip];
                    let e = &mut entered[t * strips + strip];
                    for ((e, value), sum) in e.iter_mut().zip(value).zip(sums) {
                        *e = simd.sub_f32s(*value, sum);
                        *value = simd.mul_f32s(simd.splat_f32s(betas[t]), *e);
                    }
                }
            }
        }
    }
}

/// `x_j = du_j + Σ_{t>j} L_jt r_t` and `r_t = -beta_t x_t`, of which x goes where du is: the
/// gradients by e and by what the keys recall, by substitution from the last token on.
pub(super) struct WriteBack<'a> {
    pub(super) count: usize,
    pub(super) pairs: &'a Pairs,
    pub(super) betas: &'a [f32; TOKENS],
    pub(super) of_written: (&'a mut [f32], usize),
    pub(super) of_recalled: &'a mut [f32],
    /// Goes from the first tile of tokens on, which is a mistake.
    pub(super) is_forward: bool,
}

impl OnStrips for WriteBack<'_> {
    #[inline(always)]
    fn run<S: Simd, const N: usize>(self, simd: S) {
        let Self { count, pairs, betas, of_written: (x, width), of_recalled, is_forward } = self;
        let strips = width / (N * S::F32_LANES);
        let (x, of_recalled) =
            (tiles::rows_of_mut::<S, N>(x), tiles::rows_of_mut::<S, N>(of_recalled));
        let last = (count - 1) / ROWS;
        for (strip, i) in (0..strips).flat_map(|strip| (0..=last).map(move |i| (strip, i))) {
            let first = ROWS * if is_forward { i } else { last - i };
            let later = (first + ROWS).min(count);
            let mut sums = load::<S, N>(simd, x, [first, strip, strips]);
            if later < count {
                let rows = (&of_recalled[later * strips + strip..], strips);
                let pairs = pairs_of_tile(pairs, first, later..count);
                sums = tiles::multiply_rows(simd, pairs, rows, sums);
            }
            for j in (first..later).rev() {
                let mut sum = sums[j - first];
                for t in j + 1..later {
                    tiles::add(simd, pairs[j][t], &of_recalled[t * strips + strip], &mut sum);
                }
                x[j * strips + strip] = sum;
                of_recalled[j * strips + strip] = tiles::scale(simd, -betas[j], sum);
            }
        }
    }
}

//! e^x and what is made of it, for many f32 at once, without a branch.

use crate::cpu::fused::mul_add;

/// Below it e^x is no normal f32, and taken as 0.
const LOWEST: f32 = -87.336_54;
/// Above it e^x is infinite.
const HIGHEST: f32 = 88.722_84;

/// e^x of an x that is 0 or less, within two units in the last place.
#[inline(always)]
pub(super) fn exp_of_negative(x: f32) -> f32 {
    let (n, r) = reduce(if x < LOWEST { LOWEST } else { x });
    // n is added to the exponent.
    let y = f32::from_bits(mul_add(r, series(r), 1.0).to_bits().wrapping_add(n << 23));
    if x < LOWEST { 0.0 } else { y }
}

/// e^x - 1 within a few units in the last place, also near 0; -1 where e^x is no normal f32.
#[inline(always)]
pub(super) fn exp_m1(x: f32) -> f32 {
    let clamped = if x < LOWEST { LOWEST } else { x };
    let (n, r) = reduce(if clamped > HIGHEST { HIGHEST } else { clamped });
    // 2^n (e^r - 1) + 2^n - 1, of halves, since n may be 128; 2^-127 is taken as 0.
    let half = f32::from_bits(n.wrapping_add(126) << 23);
    let y = 2.0 * mul_add(half * r, series(r), half - 0.5);
    if x < LOWEST { -1.0 } else { y }
}

/// ln(1 + e^x), to as many digits as its size has.
#[inline(always)]
pub(super) fn softplus(x: f32) -> f32 {
    let z = exp_of_negative(-x.abs());
    // ln(1 + z) = 2 artanh(s), by its series in s <= 1/3.
    let s = z / (2.0 + z);
    let square = s * s;
    let mut p = 1.0 / 13.0f32;
    for c in [1.0 / 11.0, 1.0 / 9.0, 1.0 / 7.0, 1.0 / 5.0, 1.0 / 3.0, 1.0] {
        p = mul_add(p, square, c);
    }
    mul_add(2.0 * s, p, if x < 0.0 { 0.0 } else { x })
}

/// 1 / (1 + e^-x), to as many digits as its size has.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    let z = exp_of_negative(-x.abs());
    (if x < 0.0 { z } else { 1.0 }) / (1.0 + z)
}

/// n, in the low bits, and r where x = n ln 2 + r, |r| <= ln 2 / 2.
#[inline(always)]
fn reduce(x: f32) -> (u32, f32) {
    // ln 2 in two parts, of which n times the first is exact (Cody and Waite).
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 2^23 rounds to an integer, in the low bits. A conversion would not become vectors.
    const ROUND: f32 = 12_582_912.0;
    let shifted = mul_add(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    (shifted.to_bits(), mul_add(n, -LN_2_LOW, mul_add(n, -LN_2_HIGH, x)))
}

/// (e^r - 1) / r, by its series.
#[inline(always)]
fn series(r: f32) -> f32 {
    let mut p = 1.0 / 5040.0f32;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0] {
        p = mul_add(p, r, c);
    }
    p
}

#[cfg(test)]
mod tests {
    use super::{exp_m1, exp_of_negative, sigmoid, softplus};

    #[test]
    fn exponentials_are_near_everywhere() {
        let mut x = -87.3f32;
        while x <= 0.0 {
            let (found, truth) = (f64::from(exp_of_negative(x)), f64::from(x).exp());
            assert!((found / truth - 1.0).abs() < 2.4e-7, "{x}: {found} and {truth}");
            x += 0.001_37;
        }
        assert_eq!([0.0, -200.0, f32::NEG_INFINITY].map(exp_of_negative), [1.0, 0.0, 0.0]);
        assert!(exp_of_negative(-1e-7) < 1.0);
    }

    #[test]
    fn activations_are_near_everywhere() {
        for x in (0..174_000).map(|i| i as f32 * 0.001_001 - 87.0) {
            let e = f64::from(x).exp();
            for (found, truth) in [(softplus(x), e.ln_1p()), (sigmoid(x), e / (1.0 + e))] {
                assert!((f64::from(found) / truth - 1.0).abs() < 4e-7, "{x}: {found} and {truth}");
            }
        }
        assert_eq!([softplus(-200.0), softplus(200.0)], [0.0, 200.0]);
        assert_eq!([sigmoid(-200.0), sigmoid(200.0)], [0.0, 1.0]);
    }

    #[test]
    fn exponentials_less_1_are_near_everywhere() {
        let near = |x: f32| {
            let (found, truth) = (f64::from(exp_m1(x)), f64::from(x).exp_m1());
            assert!((found / truth - 1.0).abs() < 4e-7, "{x}: {found} and {truth}");
        };
        (0..130_000).map(|i| i as f32 * 0.001_37 - 90.0).filter(|x| *x != 0.0).for_each(near);
        (-45..0).for_each(|n| near(-(10.0f32.powi(n).max(1e-37))));
        assert_eq!([0.0, -200.0, f32::NEG_INFINITY].map(exp_m1), [0.0, -1.0, -1.0]);
    }
}

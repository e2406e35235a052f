//! e^x for many f32 at once, without a branch.

/// Below it e^x is no normal f32, and taken as 0.
const LOWEST: f32 = -87.336_54;
/// Above it e^x is infinite.
const HIGHEST: f32 = 88.722_84;

/// e^x within two units in the last place: 2^n e^r with |r| <= ln 2 / 2, and e^r by its series.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // ln 2 in two parts, of which n times the first is exact (Cody and Waite).
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding 1.5 2^23 rounds to an integer, in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(LOWEST, HIGHEST);
    let shifted = clamped.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN_2_LOW, n.mul_add(-LN_2_HIGH, clamped));
    let mut p = 1.0 / 5040.0f32;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    // 2^n in two factors, since n may be 128. A conversion of n would not become vectors.
    let n = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
    let half = n >> 1;
    let scale = |n: i32| f32::from_bits(((n + 127) as u32) << 23);
    let y = p * scale(half) * scale(n - half);
    if x < LOWEST { 0.0 } else { y }
}

#[cfg(test)]
mod tests {
    use super::exp;

    #[test]
    fn is_near_everywhere() {
        let mut x = -87.3f32;
        while x < 88.7 {
            let (found, truth) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((found / truth - 1.0).abs() < 2.4e-7, "{x}: {found} and {truth}");
            x += 0.001_37;
        }
        assert_eq!([exp(0.0), exp(-200.0), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0]);
        assert!(exp(-1e-7) < 1.0);
    }
}

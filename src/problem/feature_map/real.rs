//! f32 and f64, so that the same formula is written once for both.

use std::ops::{Add, Div, Mul, Neg, Sub};

/// f32 and f64.
pub(crate) trait Real:
    Copy
    + PartialOrd
    + From<f32>
    + Into<f64>
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
{
    /// The lowest finite value.
    const LOWEST: Self;
    /// The nearest.
    fn of(x: f64) -> Self;
    /// e^x.
    fn exp(self) -> Self;
    /// ln(1 + x), without cancellation.
    fn ln_1p(self) -> Self;
    /// e^decay x; in f32 as `x + (e^decay - 1) x` where the decay is near 0, whose digits e^decay
    /// loses.
    fn decayed(self, decay: Self) -> Self;
    /// sin x.
    fn sin(self) -> Self;
    /// cos x.
    fn cos(self) -> Self;
    /// x^(1/2).
    fn sqrt(self) -> Self;

    /// 2^-n for x from 2^n to 2^(n+1), as far as both are normal; 1 where x is 0 or less.
    fn inverse_power_of_two(self) -> Self;

    /// |x|.
    fn abs(self) -> Self {
        self.larger(-self)
    }

    /// The smaller of the two.
    fn smaller(self, other: Self) -> Self {
        if other < self { other } else { self }
    }

    /// The larger of the two.
    fn larger(self, other: Self) -> Self {
        if self < other { other } else { self }
    }
}

macro_rules! real {
    ($($float:ty, $bits:ty, $decayed:expr;)*) => {$(
        impl Real for $float {
            const LOWEST: Self = <$float>::MIN;
            fn of(x: f64) -> Self { x as $float }
            fn exp(self) -> Self { <$float>::exp(self) }
            fn ln_1p(self) -> Self { <$float>::ln_1p(self) }
            fn decayed(self, decay: Self) -> Self { $decayed(self, decay) }
            fn sin(self) -> Self { <$float>::sin(self) }
            fn cos(self) -> Self { <$float>::cos(self) }
            fn sqrt(self) -> Self { <$float>::sqrt(self) }
            fn inverse_power_of_two(self) -> Self {
                const MANTISSA_BITS: u32 = <$float>::MANTISSA_DIGITS - 1;
                // Twice the exponent's bias: 254 of f32.
                const TWICE_BIAS: $bits = 2 * (<$float>::MAX_EXP as $bits - 1);
                if self <= 0.0 || self.is_nan() {
                    return 1.0;
                }
                let exponent = (self.to_bits() >> MANTISSA_BITS).clamp(1, TWICE_BIAS - 1);
                Self::from_bits((TWICE_BIAS - exponent) << MANTISSA_BITS)
            }
        }
    )*};
}
real!(
    f32, u32, |x: f32, decay: f32| match decay < -0.5 {
        true => decay.exp() * x,
        false => x + decay.exp_m1() * x,
    };
    f64, u64, |x: f64, decay: f64| decay.exp() * x;
);

#[cfg(test)]
mod tests {
    use super::Real;

    #[test]
    fn scales_are_powers_of_two() {
        for (x, inverse) in [(1.0f32, 1.0f32), (1.9, 1.0), (2.0, 0.5), (0.75, 2.0), (0.0, 1.0)] {
            assert_eq!(x.inverse_power_of_two(), inverse);
            assert_eq!(f64::from(x).inverse_power_of_two(), f64::from(inverse));
        }
        for x in [1e-45f32, f32::MIN_POSITIVE, 1e10, f32::MAX, f32::INFINITY] {
            let inverse = x.inverse_power_of_two();
            assert!(inverse.is_normal() && inverse.to_bits() << 9 == 0, "{x}: {inverse}");
        }
        assert_eq!(Real::inverse_power_of_two(1e300f64) * 2f64.powi(996), 1.0);
        assert_eq!((-3.0f64).inverse_power_of_two(), 1.0);
    }
}

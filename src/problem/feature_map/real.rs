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
    /// The nearest.
    fn of(x: f64) -> Self;
    /// e^x.
    fn exp(self) -> Self;
    /// sin x.
    fn sin(self) -> Self;
    /// cos x.
    fn cos(self) -> Self;
    /// x^(1/2).
    fn sqrt(self) -> Self;

    /// The larger of the two.
    fn larger(self, other: Self) -> Self {
        if self < other { other } else { self }
    }
}

macro_rules! real {
    ($($float:ty),*) => {$(
        impl Real for $float {
            fn of(x: f64) -> Self { x as $float }
            fn exp(self) -> Self { <$float>::exp(self) }
            fn sin(self) -> Self { <$float>::sin(self) }
            fn cos(self) -> Self { <$float>::cos(self) }
            fn sqrt(self) -> Self { <$float>::sqrt(self) }
        }
    )*};
}
real!(f32, f64);

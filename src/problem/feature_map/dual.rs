//! Dual numbers: a value and its derivative, so that a formula written once gives both.

use std::cmp::Ordering;
use std::ops::{Add, Div, Mul, Neg, Sub};

use crate::problem::feature_map::real::Real;

/// x + dx ε with ε² = 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Dual {
    pub(crate) x: f64,
    pub(crate) dx: f64,
}

impl Dual {
    /// A number that changes nothing.
    pub(crate) fn constant(x: f64) -> Self {
        Self { x, dx: 0.0 }
    }

    /// f(x), of which the derivative at x is given.
    fn map(self, x: f64, derivative: f64) -> Self {
        Self { x, dx: derivative * self.dx }
    }
}

impl PartialOrd for Dual {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        self.x.partial_cmp(&other.x)
    }
}

impl From<f32> for Dual {
    fn from(x: f32) -> Self {
        Self::constant(x.into())
    }
}

impl From<Dual> for f64 {
    fn from(dual: Dual) -> Self {
        dual.x
    }
}

impl Add for Dual {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { x: self.x + other.x, dx: self.dx + other.dx }
    }
}

impl Sub for Dual {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { x: self.x - other.x, dx: self.dx - other.dx }
    }
}

impl Mul for Dual {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self { x: self.x * other.x, dx: self.dx * other.x + self.x * other.dx }
    }
}

impl Div for Dual {
    type Output = Self;
    fn div(self, other: Self) -> Self {
        let x = self.x / other.x;
        Self { x, dx: (self.dx - x * other.dx) / other.x }
    }
}

impl Neg for Dual {
    type Output = Self;
    fn neg(self) -> Self {
        Self { x: -self.x, dx: -self.dx }
    }
}

impl Real for Dual {
    const LOWEST: Self = Self { x: f64::MIN, dx: 0.0 };

    fn of(x: f64) -> Self {
        Self::constant(x)
    }

    fn exp(self) -> Self {
        let x = self.x.exp();
        self.map(x, x)
    }

    fn ln_1p(self) -> Self {
        self.map(self.x.ln_1p(), 1.0 / (1.0 + self.x))
    }

    /// Of two that are equal the other, so that max(x, 0) has no slope at 0 and max(x, 0) +
    /// e^min(x, 0) has the slope 1.
    fn larger(self, other: Self) -> Self {
        if self <= other { other } else { self }
    }

    fn decayed(self, decay: Self) -> Self {
        self * decay.exp()
    }

    fn sin(self) -> Self {
        self.map(self.x.sin(), self.x.cos())
    }

    fn cos(self) -> Self {
        self.map(self.x.cos(), -self.x.sin())
    }

    fn sqrt(self) -> Self {
        let x = self.x.sqrt();
        self.map(x, 0.5 / x)
    }

    /// A scale, which cancels.
    fn inverse_power_of_two(self) -> Self {
        Self::constant(self.x.inverse_power_of_two())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against central differences of the same formula in f64.
    #[test]
    fn derivatives() {
        fn formula<R: Real>(x: R) -> R {
            let y = (x.exp() + x.sin() * x) / (R::of(2.0) + x.cos());
            (y * y + R::of(1.0)).sqrt() - (x * x).ln_1p() + (-x).larger(x).abs()
        }
        for x in [-2.0, -0.3, 0.4, 1.7] {
            let found = formula(Dual { x, dx: 1.0 });
            let h = 1e-6;
            let slope = (formula(x + h) - formula(x - h)) / (2.0 * h);
            assert_eq!(found.x, formula(x));
            assert!((found.dx - slope).abs() < 1e-8 * (1.0 + slope.abs()), "{x}");
        }
    }

    #[test]
    fn slopes_at_kinks() {
        let (x, zero) = (Dual { x: 0.0, dx: 1.0 }, Dual::constant(0.0));
        assert_eq!(x.larger(zero).dx, 0.0);
        assert_eq!((x.larger(zero) + x.smaller(zero).exp()).dx, 1.0);
    }
}

//! The row scale of queries: the same as `shaders/map/stabiliser.wgsl`, in f32 and f64.
//!
//! In the quotient a factor common to all features of a query cancels. So where o is normalised, a
//! query is mapped to features whose largest is near 1, and no square and no exponential leaves the
//! range of its type on the way. Exponentials have the row max subtracted before exp, everything
//! else is multiplied by a power of two, which is exact. A key has no scale: its factor is a weight
//! against other keys.
//!
//! A map is applied in two steps: `pre` is what is known of a feature before the row max is, the
//! element itself, a projection or an exponent, and [`activate`] makes the feature of it.

use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::dual::Dual;
use crate::problem::feature_map::real::Real;

/// The scale of a query's features.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct RowScale<R> {
    /// Subtracted before exp.
    shift: R,
    /// A power of two.
    scale: R,
}

impl<R: Real> RowScale<R> {
    /// Of keys, and of queries where o is not normalised.
    pub(crate) fn none() -> Self {
        Self { shift: R::from(0.0), scale: R::from(1.0) }
    }

    /// Of a row whose features are `pre` before [`activate`].
    pub(crate) fn of(map: &FeatureMap, is_normalized: bool, pre: &[R]) -> Self {
        let (zero, one) = (R::from(0.0), R::from(1.0));
        let largest = pre.iter().fold(R::LOWEST, |largest, pre| largest.larger(measure(map, *pre)));
        let negative_part = largest.smaller(zero);
        let (shift, scale) = match map {
            // Without a quotient that cancels it, the gain itself must be in range.
            FeatureMap::Exp if !is_normalized => {
                (largest.smaller(R::from(80.0)).larger(R::from(-80.0)), one)
            }
            FeatureMap::Exp | FeatureMap::Favor { .. } | FeatureMap::FavorHyperbolic { .. } => {
                (largest, one)
            }
            FeatureMap::Sigmoid => (negative_part, one),
            FeatureMap::Elu => (negative_part, (largest.larger(zero) + one).inverse_power_of_two()),
            FeatureMap::Silu => {
                (negative_part, largest.abs().larger(R::from(1.0)).inverse_power_of_two())
            }
            _ => (zero, largest.inverse_power_of_two()),
        };
        Self { shift, scale }
    }

    /// The factor that the scale puts on the features of its row.
    pub(crate) fn gain(self, map: &FeatureMap) -> R {
        match map {
            FeatureMap::ReluSquared => self.scale * self.scale,
            _ => self.scale * (-self.shift).exp(),
        }
    }
}

impl RowScale<f64> {
    /// The same in dual numbers, which changes nothing.
    pub(super) fn constant(self) -> RowScale<Dual> {
        RowScale { shift: Dual::constant(self.shift), scale: Dual::constant(self.scale) }
    }
}

/// The part of a row that its scale is measured by.
fn measure<R: Real>(map: &FeatureMap, pre: R) -> R {
    match map {
        FeatureMap::Relu
        | FeatureMap::ReluSquared
        | FeatureMap::Elu
        | FeatureMap::Exp
        | FeatureMap::Silu
        | FeatureMap::Sigmoid
        | FeatureMap::Favor { .. }
        | FeatureMap::FavorHyperbolic { .. } => pre,
        _ => pre.abs(),
    }
}

/// The feature of `pre`, one of F. Of the two terms of elu + 1 one is always exact, exp(0) = 1 or
/// 0, so that nothing cancels as it does in expm1(x) + 1.
pub(super) fn activate<R: Real>(map: &FeatureMap, pre: R, s: RowScale<R>, features: usize) -> R {
    let zero = R::from(0.0);
    match map {
        FeatureMap::Relu => pre.larger(zero) * s.scale,
        FeatureMap::ReluSquared => {
            let y = pre.larger(zero) * s.scale;
            y * y
        }
        FeatureMap::Elu => {
            (pre.smaller(zero) - s.shift).exp() * s.scale + pre.larger(zero) * s.scale
        }
        FeatureMap::Exp => (pre - s.shift).exp(),
        FeatureMap::Sigmoid => sigmoid(pre, s.shift),
        FeatureMap::Silu => (pre * s.scale) * sigmoid(pre, s.shift),
        FeatureMap::Favor { .. } | FeatureMap::FavorHyperbolic { .. } => {
            R::of((features as f64).powf(-0.5)) * (pre - s.shift).exp()
        }
        _ => pre * s.scale,
    }
}

/// e^(x - shift) / (1 + e^x), where shift is the row max if that is negative and else 0.
fn sigmoid<R: Real>(x: R, shift: R) -> R {
    let (zero, one) = (R::from(0.0), R::from(1.0));
    let numerator = if x < zero { (x - shift).exp() } else { one };
    numerator / (one + (-x.abs()).exp())
}

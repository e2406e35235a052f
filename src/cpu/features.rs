//! Features of rows: the common maps with vectors, all others as the reference has them.

use super::exp::exp;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::phi::Phi;
use crate::problem::feature_map::real::Real;

/// φ of keys or of queries.
pub(super) struct Features<'a> {
    phi: Phi<'a>,
    fast: Option<Fast>,
    /// True for rows that are scaled by a power of two, or less their largest.
    is_scaled: bool,
}

/// The maps that are a few instructions an element.
#[derive(Clone, Copy, PartialEq)]
enum Fast {
    Identity,
    Relu,
    Elu,
}

impl<'a> Features<'a> {
    pub(super) fn new(config: &Config, map: &FeatureMap, phi: Phi<'a>, is_scaled: bool) -> Self {
        let fast = match map {
            _ if config.l2_norm => None,
            FeatureMap::Identity => Some(Fast::Identity),
            FeatureMap::Relu => Some(Fast::Relu),
            FeatureMap::Elu => Some(Fast::Elu),
            _ => None,
        };
        Self { phi, fast, is_scaled }
    }

    /// The features of a row, and the gain that its scale puts on them: as `Phi::row`.
    #[inline(always)]
    pub(super) fn row(&self, x: &[f32], head: usize, features: &mut [f32]) -> f32 {
        let Some(fast) = self.fast else { return self.phi.row(x, head, features) };
        let (mut shift, mut scale) = (0.0, 1.0);
        if self.is_scaled {
            let of = |x: f32| if fast == Fast::Identity { x.abs() } else { x };
            let largest = x.iter().fold(f32::MIN, |largest, x| largest.max(of(*x)));
            (shift, scale) = match fast {
                Fast::Elu => (largest.min(0.0), (largest.max(0.0) + 1.0).inverse_power_of_two()),
                _ => (0.0, largest.inverse_power_of_two()),
            };
        }
        let all = features.iter_mut().zip(x);
        match fast {
            Fast::Identity => all.for_each(|(f, x)| *f = x * scale),
            Fast::Relu => all.for_each(|(f, x)| *f = x.max(0.0) * scale),
            Fast::Elu => all.for_each(|(f, x)| {
                *f = exp(x.min(0.0) - shift).mul_add(scale, x.max(0.0) * scale);
            }),
        }
        scale * (-shift).exp()
    }

    /// The head whose weights a query has: as `Phi::weights_head`.
    pub(super) fn weights_head(&self, query_head: usize, key_head: usize) -> usize {
        self.phi.weights_head(query_head, key_head)
    }
}

//! Keys of finite rows whose features leave the range of f32.

use super::Phi;
use crate::problem::feature_map::FeatureMap;

/// e^88 is finite in f32.
const LARGEST_EXPONENT: f64 = 88.0;
/// The square of this is, too.
const LARGEST_FACTOR: f64 = 1e18;

impl Phi<'_> {
    /// The first feature that is infinite or not a number in f32: the token and head of its row,
    /// its index in the row and its value. Most rows are ruled out by their L2 norm, which costs
    /// less than their features.
    pub(crate) fn non_finite_feature<'k>(
        &self,
        heads: usize,
        rows: impl Iterator<Item = ((usize, usize), &'k [f32])>,
    ) -> Option<((usize, usize), usize, f32)> {
        let safe_norms: Vec<f64> = (0..heads).map(|head| self.safe_norm(head)).collect();
        if safe_norms.iter().all(|norm| norm.is_infinite()) {
            return None;
        }
        let mut features = vec![0.0f32; self.features];
        for ((token, head), x) in rows {
            let norm = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
            let norm = if self.l2_norm { norm.min(1.0) } else { norm };
            if norm < safe_norms[head] {
                continue;
            }
            self.row(x, head, &mut features);
            if let Some(f) = features.iter().position(|x| !x.is_finite()) {
                return Some(((token, head), f, features[f]));
            }
        }
        None
    }

    /// An L2 norm below which no feature of a row, and nothing that is formed on the way to it,
    /// leaves f32.
    fn safe_norm(&self, head: usize) -> f64 {
        // |w . x + b| <= |w| |x| + |b|
        let norm_of = |projection: f64| match self.projection {
            None => f64::INFINITY,
            Some(weights) => {
                let (weight, bias) = weights.largest_norms(head);
                (projection - bias) / weight
            }
        };
        match self.map {
            FeatureMap::Identity
            | FeatureMap::Relu
            | FeatureMap::Elu
            | FeatureMap::Silu
            | FeatureMap::Sigmoid => f64::INFINITY,
            FeatureMap::Exp => LARGEST_EXPONENT,
            FeatureMap::Favor { .. } | FeatureMap::FavorHyperbolic { .. } => {
                let fourth_root = (self.key_dim as f64).powf(0.25);
                LARGEST_FACTOR.min(norm_of(LARGEST_EXPONENT * fourth_root))
            }
            // The bounds of a caller's own map are unknown.
            FeatureMap::Custom(_) => 0.0,
            _ => LARGEST_FACTOR.min(norm_of(LARGEST_FACTOR)),
        }
    }
}

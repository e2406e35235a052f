//! The derivative of φ of a row, of the same formulas in dual numbers.

use super::{L2_EPS, Phi, formulas, squared_norm, stabiliser};
use crate::problem::feature_map::dual::Dual;
use crate::problem::feature_map::real::Real;

/// The gradients of the weights of a map: as those lie in [`Projection`](super::Projection), summed
/// in f64, or in f32 for the mirror of the shaders.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct WeightGradients<R = f64> {
    /// `[heads,P,K]`.
    pub(crate) weight: Vec<R>,
    /// `[heads,P]`; empty where there is no bias.
    pub(crate) bias: Vec<R>,
}

impl Phi<'_> {
    /// Adds to `dx` the gradients by the elements of a row, from the gradients `df` by its
    /// features, and to `of_weights` those by the weights of head `head`. The features are those of
    /// [`Phi::row`]: their gain is taken for a constant, which it is where it cancels.
    ///
    /// One evaluation for each element and projection: for the reference, not for speed.
    pub(crate) fn pull_back<R: Real>(
        &self,
        from: &[f32],
        head: usize,
        df: &[f64],
        dx: &mut [f64],
        of_weights: &mut WeightGradients<R>,
    ) {
        let raw: Vec<f64> = from.iter().map(|x| f64::from(*x)).collect();
        let norm = if self.l2_norm { (squared_norm(&raw) + f64::from(L2_EPS)).sqrt() } else { 1.0 };
        let x: Vec<f64> = raw.iter().map(|x| x / norm).collect();
        let mut y = vec![0.0; self.projection.map_or(0, |_| self.projections())];
        if let Some(projection) = self.projection {
            projection.project(head, &x, &mut y);
        }
        let of_x = self.slopes(&x, &y, df, 0..x.len());
        let of_y = self.slopes(&x, &y, df, x.len()..x.len() + y.len());
        let mut d_x = of_x;
        if let Some(projection) = self.projection {
            for (p, dy) in of_y.iter().enumerate() {
                let row = projection.row(head, p);
                for (d_x, w) in d_x.iter_mut().zip(row) {
                    *d_x += dy * f64::from(*w);
                }
                let at = projection.index(head, p);
                for (dw, x) in of_weights.weight[at * x.len()..].iter_mut().zip(&x) {
                    *dw = *dw + R::of(dy * x);
                }
                if let Some(db) = of_weights.bias.get_mut(at) {
                    *db = *db + R::of(*dy);
                }
            }
        }
        // y = x / norm: dx = (dy - y (y . dy)) / norm
        let along: f64 =
            if self.l2_norm { x.iter().zip(&d_x).map(|(x, d)| x * d).sum() } else { 0.0 };
        for ((dx, d), x) in dx.iter_mut().zip(&d_x).zip(&x) {
            *dx += (d - x * along) / norm;
        }
    }

    fn projections(&self) -> usize {
        self.map.projections(self.key_dim as u32) as usize
    }

    /// `df` times the derivatives of all features by some of the elements and projections.
    fn slopes(&self, x: &[f64], y: &[f64], df: &[f64], by: std::ops::Range<usize>) -> Vec<f64> {
        let mut pre = vec![0.0; self.features];
        let mut memory = Vec::new();
        formulas::pre_features(self.map, x, y, &mut pre, &mut memory);
        let scale = self.scale(&pre).constant();
        let mut features = vec![Dual::default(); self.features];
        let mut memory = Vec::new();
        let slope = |seed: usize| {
            let dual = |(i, x): (usize, &f64)| Dual { x: *x, dx: f64::from(u8::from(i == seed)) };
            let all: Vec<Dual> = x.iter().chain(y).enumerate().map(dual).collect();
            let (x, y) = all.split_at(x.len());
            formulas::pre_features(self.map, x, y, &mut features, &mut memory);
            let of_feature = |(pre, df): (&Dual, &f64)| {
                df * stabiliser::activate(self.map, *pre, scale, self.features).dx
            };
            features.iter().zip(df).map(of_feature).sum()
        };
        by.map(slope).collect()
    }
}

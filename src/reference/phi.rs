//! φ of a row, written once for f64, the definition, and for f32, the mirror of the shaders.

use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::projection::Projection;
use crate::problem::feature_map::real::Real;
use crate::problem::feature_map::weights::Weights;

/// eps of [`Config::l2_norm`], as in flash-linear-attention.
const L2_EPS: f32 = 1e-6;

/// φ of all rows of q or of k: K numbers each in, F features each out.
pub(crate) struct Phi<'a> {
    map: &'a FeatureMap,
    l2_norm: bool,
    key_dim: usize,
    features: usize,
    projection: Option<&'a Projection>,
    /// What a head's number is divided by where weights are of fewer heads.
    group: usize,
    /// Whether a row of [`FeatureMap::Exp`] is mapped less its largest number, within this.
    shifts: Option<f32>,
}

impl<'a> Phi<'a> {
    pub(crate) fn of_keys(config: &'a Config, weights: Option<&'a Weights>) -> Self {
        let projection = weights.and_then(Weights::of_keys);
        Self::new(config, config.key_map(), projection, 1, None)
    }

    /// With `shifts` as the shaders have queries, so that none overflows.
    pub(crate) fn of_queries(
        config: &'a Config,
        weights: Option<&'a Weights>,
        group: usize,
        shifts: bool,
    ) -> Self {
        let shifts = shifts.then_some(match config.normalization.eps() {
            Some(_) => f32::MAX,
            None => 80.0,
        });
        let (projection, group) = weights.map_or((None, 1), |weights| weights.of_queries(group));
        Self::new(config, config.query_map(), projection, group, shifts)
    }

    fn new(
        config: &'a Config,
        map: &'a FeatureMap,
        projection: Option<&'a Projection>,
        group: usize,
        shifts: Option<f32>,
    ) -> Self {
        Self {
            map,
            l2_norm: config.l2_norm,
            key_dim: config.key_dim as usize,
            features: config.features() as usize,
            projection: projection.filter(|_| map.projections(config.key_dim) > 0),
            group,
            shifts: shifts.filter(|_| *map == FeatureMap::Exp),
        }
    }

    /// The features of each row of `x`, rows of `heads` heads in turn, and of each row its shift:
    /// what the logarithms of its features are too small by.
    pub(crate) fn rows<R: Real>(&self, x: &[f32], heads: usize) -> (Vec<R>, Vec<R>) {
        let mut features = Vec::with_capacity(x.len() / self.key_dim * self.features);
        let mut shifts = Vec::with_capacity(x.len() / self.key_dim);
        let mut of_row = vec![R::from(0.0); self.features];
        for (row, x) in x.chunks(self.key_dim).enumerate() {
            shifts.push(self.row(x, row % heads, &mut of_row));
            features.extend_from_slice(&of_row);
        }
        (features, shifts)
    }

    /// The features of a row of head `head`; returns its shift.
    pub(crate) fn row<R: Real>(&self, x: &[f32], head: usize, features: &mut [R]) -> R {
        let mut x: Vec<R> = x.iter().map(|x| R::from(*x)).collect();
        if self.l2_norm {
            let quads = x.chunks(4).map(|quad| sum(quad.iter().map(|x| *x * *x)));
            let length = (sum(quads) + R::from(L2_EPS)).sqrt();
            x.iter_mut().for_each(|x| *x = *x / length);
        }
        let mut y = Vec::new();
        if let Some(projection) = self.projection {
            y = vec![R::from(0.0); self.map.projections(self.key_dim as u32) as usize];
            projection.project(head / self.group, &x, &mut y);
        }
        let mut shift = R::from(0.0);
        if let Some(most) = self.shifts {
            shift = largest(&x).larger(R::from(-most));
            shift = -(-shift).larger(R::from(-most));
            x.iter_mut().for_each(|x| *x = *x - shift);
        }
        self.map_row(&x, &y, features);
        shift
    }

    fn map_row<R: Real>(&self, x: &[R], y: &[R], features: &mut [R]) {
        let d = x.len();
        let root = R::of((d as f64).sqrt());
        let width = features.len();
        match self.map {
            FeatureMap::Softmax => softmax(x, features),
            FeatureMap::T2r { .. } => map_each(y, features, |y| y.larger(R::from(0.0))),
            FeatureMap::Hedgehog => {
                let (positive, negative) = features.split_at_mut(d);
                softmax(y, positive);
                let y: Vec<R> = y.iter().map(|y| -*y).collect();
                softmax(&y, negative);
            }
            FeatureMap::HedgehogJoint => {
                let two = R::from(2.0);
                let both: Vec<R> =
                    y.iter().map(|y| two * *y).chain(y.iter().map(|y| -(two * *y))).collect();
                softmax(&both, features);
            }
            FeatureMap::Product { .. } => {
                let (first, second) = y.split_at(width);
                for ((feature, a), b) in features.iter_mut().zip(first).zip(second) {
                    *feature = *a * *b;
                }
            }
            FeatureMap::Favor { .. } | FeatureMap::FavorHyperbolic { .. } => {
                let norm = R::of((width as f64).powf(-0.5));
                let half = sum(x.chunks(4).map(|quad| sum(quad.iter().map(|x| *x * *x))))
                    / (R::from(2.0) * root);
                let fourth = R::of((d as f64).powf(-0.25));
                let (positive, negative) = features.split_at_mut(y.len());
                map_each(y, positive, |y| norm * (y * fourth - half).exp());
                // Empty but for the hyperbolic form.
                map_each(y, negative, |y| norm * (-(y * fourth) - half).exp());
            }
            FeatureMap::Fourier { .. } => {
                let norm = R::of((2.0 / width as f64).sqrt());
                let fourth = R::of((d as f64).powf(-0.25));
                let (cosines, sines) = features.split_at_mut(width / 2);
                map_each(y, cosines, |y| norm * (y * fourth).cos());
                map_each(y, sines, |y| norm * (y * fourth).sin());
            }
            FeatureMap::Taylor => {
                features[0] = R::from(1.0);
                let (linear, products) = features[1..].split_at_mut(d);
                let fourth = R::of((d as f64).powf(-0.25));
                map_each(x, linear, |x| x * fourth);
                let (squares, products) = products.split_at_mut(d);
                let square = R::of((2.0 * d as f64).powf(-0.5));
                map_each(x, squares, |x| x * x * square);
                let pairs = (0..d).flat_map(|i| (i + 1..d).map(move |j| (i, j)));
                let one = R::of((d as f64).powf(-0.5));
                for (feature, (i, j)) in products.iter_mut().zip(pairs) {
                    *feature = x[i] * x[j] * one;
                }
            }
            FeatureMap::Dpfp { .. } => {
                let zero = R::from(0.0);
                let r: Vec<R> = x
                    .iter()
                    .copied()
                    .chain(x.iter().map(|x| -*x))
                    .map(|x| x.larger(zero))
                    .collect();
                for (f, feature) in features.iter_mut().enumerate() {
                    let (i, j) = (f % (2 * d), f / (2 * d) + 1);
                    *feature = r[i] * r[(i + 2 * d - j) % (2 * d)];
                }
            }
            FeatureMap::Custom(map) => {
                let f64s = |x: &[R]| -> Vec<f64> { x.iter().map(|x| (*x).into()).collect() };
                let mut found = vec![0.0; width];
                map.map(&f64s(x), &f64s(y), &mut found);
                for (feature, found) in features.iter_mut().zip(found) {
                    *feature = R::of(found);
                }
            }
            map => map_each(x, features, |x| element(map, x)),
        }
    }
}

/// The maps of one number each.
fn element<R: Real>(map: &FeatureMap, x: R) -> R {
    let (zero, one) = (R::from(0.0), R::from(1.0));
    match map {
        FeatureMap::Relu => x.larger(zero),
        FeatureMap::ReluSquared => x.larger(zero) * x.larger(zero),
        FeatureMap::Elu if x < zero => x.exp(),
        FeatureMap::Elu => x + one,
        FeatureMap::Exp => x.exp(),
        FeatureMap::Silu => x / (one + (-x).exp()),
        FeatureMap::Sigmoid => one / (one + (-x).exp()),
        _ => x,
    }
}

fn map_each<R: Real>(from: &[R], to: &mut [R], map: impl Fn(R) -> R) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = map(*from);
    }
}

fn softmax<R: Real>(x: &[R], to: &mut [R]) {
    let most = largest(x);
    map_each(x, to, |x| (x - most).exp());
    let total = sum(to.iter().copied());
    to.iter_mut().for_each(|x| *x = *x / total);
}

fn largest<R: Real>(x: &[R]) -> R {
    x.iter().skip(1).fold(x[0], |most, x| most.larger(*x))
}

fn sum<R: Real>(x: impl Iterator<Item = R>) -> R {
    x.fold(R::from(0.0), |sum, x| sum + x)
}

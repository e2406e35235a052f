//! φ of a row, written once for f64, the definition, and for f32, the mirror of the shaders.

mod derivative;
mod formulas;
mod key_range;
mod stabiliser;

pub(crate) use derivative::WeightGradients;
use stabiliser::RowScale;

use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::projection::Projection;
use crate::problem::feature_map::real::Real;
use crate::problem::feature_map::weights::Weights;

/// eps of [`Config::l2_norm`], as in flash-linear-attention.
const L2_EPS: f32 = 1e-6;

/// φ of rows of q or k: K elements each in, F features each out.
pub(crate) struct Phi<'a> {
    map: &'a FeatureMap,
    l2_norm: bool,
    key_dim: usize,
    features: usize,
    projection: Option<&'a Projection>,
    /// True if a query has the weights of the key head that it reads.
    shares_key_weights: bool,
    /// True for rows that are scaled: queries, as [`Config::scales_queries`] says.
    is_scaled: bool,
    is_normalized: bool,
}

/// The memory of a row's elements, its projections, and what formulas make of these.
#[derive(Debug)]
pub(crate) struct RowMemory<R> {
    x: Vec<R>,
    y: Vec<R>,
    z: Vec<R>,
}

impl<R> Default for RowMemory<R> {
    fn default() -> Self {
        Self { x: Vec::new(), y: Vec::new(), z: Vec::new() }
    }
}

#[cfg(feature = "cpu")]
impl<R> RowMemory<R> {
    /// Makes room for rows of either map.
    pub(crate) fn reserve(&mut self, config: &Config) {
        let k = config.key_dim as usize;
        let projections = |map: &FeatureMap| map.projections(config.key_dim) as usize;
        let y = projections(config.key_map()).max(projections(config.query_map()));
        self.x.reserve(k);
        self.y.reserve(y);
        self.z.reserve(2 * k.max(y));
    }
}

impl<'a> Phi<'a> {
    pub(crate) fn of_keys(config: &'a Config, weights: Option<&'a Weights>) -> Self {
        Self::new(config, config.key_map(), weights.and_then(Weights::of_keys))
    }

    pub(crate) fn of_queries(config: &'a Config, weights: Option<&'a Weights>) -> Self {
        let (projection, shares_key_weights) =
            weights.map_or((None, false), |weights| weights.of_queries());
        let is_scaled = config.scales_queries();
        let phi = Self::new(config, config.query_map(), projection);
        Self { shares_key_weights, is_scaled, ..phi }
    }

    fn new(config: &'a Config, map: &'a FeatureMap, projection: Option<&'a Projection>) -> Self {
        Self {
            map,
            l2_norm: config.l2_norm,
            key_dim: config.key_dim as usize,
            features: config.features() as usize,
            projection: projection.filter(|_| map.projections(config.key_dim) > 0),
            shares_key_weights: false,
            is_scaled: false,
            is_normalized: config.is_normalized(),
        }
    }

    /// The head whose weights a query of `query_head` has, when it reads `key_head`.
    pub(crate) fn weights_head(&self, query_head: usize, key_head: usize) -> usize {
        if self.shares_key_weights { key_head } else { query_head }
    }

    pub(crate) fn shares_key_weights(&self) -> bool {
        self.shares_key_weights
    }

    /// The scale of a row whose features are `pre` before they are activated.
    fn scale<R: Real>(&self, pre: &[R]) -> RowScale<R> {
        if !self.is_scaled {
            return RowScale::none();
        }
        RowScale::of(self.map, self.is_normalized, pre)
    }

    /// The features of a row, with the weights of head `head`, and returned the gain: the factor
    /// that its scale puts on them. It cancels in the quotient, but for eps.
    pub(crate) fn row<R: Real>(&self, x: &[f32], head: usize, features: &mut [R]) -> R {
        self.row_in(&mut RowMemory::default(), x, head, features)
    }

    /// The same in the memory of a row before.
    pub(crate) fn row_in<R: Real>(
        &self,
        memory: &mut RowMemory<R>,
        from: &[f32],
        head: usize,
        features: &mut [R],
    ) -> R {
        let RowMemory { x, y, z } = memory;
        x.clear();
        x.extend(from.iter().map(|x| R::from(*x)));
        if self.l2_norm {
            let norm = (squared_norm(x) + R::from(L2_EPS)).sqrt();
            x.iter_mut().for_each(|x| *x = *x / norm);
        }
        y.clear();
        if let Some(projection) = self.projection {
            y.resize(self.map.projections(self.key_dim as u32) as usize, R::from(0.0));
            projection.project(head, x, y);
        }
        formulas::pre_features(self.map, x, y, features, z);
        let scale = self.scale(features);
        for feature in features.iter_mut() {
            *feature = stabiliser::activate(self.map, *feature, scale, self.features);
        }
        scale.gain(self.map)
    }
}

/// Summed as the shaders do, in vec4s.
fn squared_norm<R: Real>(x: &[R]) -> R {
    formulas::sum(x.chunks(4).map(|x| formulas::sum(x.iter().map(|x| *x * *x))))
}

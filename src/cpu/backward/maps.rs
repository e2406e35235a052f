//! Features of rows and back.

use crate::cpu::exp::exp_of_negative;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::phi::{Phi, RowMemory, WeightGradients};
use crate::problem::feature_map::weights::Weights;

/// φ of keys or of queries.
pub(super) struct Map<'a> {
    phi: Phi<'a>,
    fast: Option<Fast>,
}

/// The maps whose derivative follows from a row and its features.
#[derive(Clone, Copy)]
enum Fast {
    Identity,
    Relu,
    Elu,
}

/// Memory of a row.
#[derive(Default)]
pub(super) struct MapMemory {
    memory: RowMemory<f32>,
    of_features: Vec<f64>,
    of_row: Vec<f64>,
}

impl<'a> Map<'a> {
    pub(super) fn of_keys(config: &'a Config, weights: Option<&'a Weights>) -> Self {
        Self::new(config, config.key_map(), Phi::of_keys(config, weights))
    }

    pub(super) fn of_queries(config: &'a Config, weights: Option<&'a Weights>) -> Self {
        Self::new(config, config.query_map(), Phi::of_queries(config, weights))
    }

    fn new(config: &Config, map: &FeatureMap, phi: Phi<'a>) -> Self {
        let fast = match map {
            _ if config.l2_norm => None,
            FeatureMap::Identity => Some(Fast::Identity),
            FeatureMap::Relu => Some(Fast::Relu),
            FeatureMap::Elu => Some(Fast::Elu),
            _ => None,
        };
        Self { phi, fast }
    }

    pub(super) fn phi(&self) -> &Phi<'a> {
        &self.phi
    }

    /// The features of a row of head `head`, and their gain. `is_scaled` is false for keys.
    #[inline(always)]
    pub(super) fn row(
        &self,
        x: &[f32],
        head: usize,
        memory: &mut MapMemory,
        features: &mut [f32],
    ) -> f32 {
        let Some(fast) = self.fast.filter(|_| is_in_range(x)) else {
            return self.phi.row_in(&mut memory.memory, x, head, features);
        };
        for (feature, x) in features.iter_mut().zip(x) {
            *feature = match fast {
                Fast::Identity => *x,
                Fast::Relu => x.max(0.0),
                Fast::Elu => x.max(0.0) + exp_of_negative(x.min(0.0)),
            };
        }
        1.0
    }

    /// Adds to `of_row` the gradients by the elements of a row, from those by its features.
    #[inline(always)]
    pub(super) fn pull_back(
        &self,
        (x, features, gain): (&[f32], &[f32], f32),
        head: usize,
        memory: &mut MapMemory,
        of_features: &[f32],
        (of_row, of_weights): (&mut [f32], &mut WeightGradients),
    ) {
        let Some(fast) = self.fast else {
            let MapMemory { of_features: wide, of_row: row, .. } = memory;
            wide.clear();
            wide.extend(of_features.iter().map(|x| f64::from(*x)));
            row.clear();
            row.resize(x.len(), 0.0);
            self.phi.pull_back(x, head, wide, row, of_weights);
            of_row.iter_mut().zip(row).for_each(|(to, x)| *to += *x as f32);
            return;
        };
        let rows = of_row.iter_mut().zip(of_features).zip(x).zip(features);
        for (((to, of_feature), x), feature) in rows {
            let slope = match fast {
                Fast::Identity => gain,
                Fast::Relu => {
                    if *x > 0.0 {
                        gain
                    } else {
                        0.0
                    }
                }
                // Below 0 the feature is its own derivative, also where it is scaled.
                Fast::Elu => {
                    if *x < 0.0 {
                        *feature
                    } else {
                        gain
                    }
                }
            };
            *to += slope * of_feature;
        }
    }
}

/// True for a row whose features and their products stay in f32 without a scale.
#[inline(always)]
fn is_in_range(x: &[f32]) -> bool {
    let mut largest = 0.0f32;
    for x in x {
        largest = largest.max(*x);
    }
    (0.0625..=1e4).contains(&largest)
}

//! Features of rows and back.

use crate::cpu::features::Fast;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::phi::{Phi, RowMemory, WeightGradients};
use crate::problem::feature_map::weights::Weights;

/// φ of keys or of queries.
pub(super) struct Map<'a> {
    phi: Phi<'a>,
    /// Those whose derivative follows from a row and its features.
    fast: Option<Fast>,
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
        let fast = Fast::new(config, map);
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
        match self.fast {
            Some(fast) if is_in_range(x) => fast.map(x, features),
            _ => self.phi.row_in(&mut memory.memory, x, head, features),
        }
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
        // The features say enough, and are nearer than the row.
        let rows = of_row.iter_mut().zip(of_features).zip(features);
        match fast {
            Fast::Identity => rows.for_each(|((to, of_feature), _)| *to += gain * of_feature),
            Fast::Relu => rows.for_each(|((to, of_feature), feature)| {
                *to += if *feature > 0.0 { gain } else { 0.0 } * of_feature;
            }),
            // Below 0 the feature is its own derivative, also where it is scaled.
            Fast::Elu => rows.for_each(|((to, of_feature), feature)| {
                *to += if *feature < gain { *feature } else { gain } * of_feature;
            }),
        }
    }
}

/// True for a row whose features and their products stay in f32 without a scale.
#[inline(always)]
fn is_in_range(x: &[f32]) -> bool {
    // In sixteen lanes, which are vectors.
    const N: usize = 16;
    let larger = |a: f32, b: f32| if a > b { a } else { b };
    let (rows, rest) = x.as_chunks::<N>();
    let mut largest = [0.0f32; N];
    for x in rows {
        for i in 0..N {
            largest[i] = larger(x[i], largest[i]);
        }
    }
    for (i, x) in rest.iter().enumerate() {
        largest[i] = larger(*x, largest[i]);
    }
    let mut half = N / 2;
    while half > 0 {
        for i in 0..half {
            largest[i] = larger(largest[i], largest[i + half]);
        }
        half /= 2;
    }
    (0.0625..=1e4).contains(&largest[0])
}

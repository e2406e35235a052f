//! The arithmetic of the shaders in f32, one file a stage.
//!
//! Each function has the name of its stage, and reads and writes the same tensors. The threads of a
//! workgroup become the inner loops, and only the order of additions that matters is kept: tokens one
//! after the other, features in the partial sums that threads hold. Two stages have no file of their
//! own, since their arithmetic is that of [`segment_output`]: `decode_step` is a segment a
//! sequence, and `output_sum` adds the partial sums of feature blocks as threads do those of feature
//! tiles.

pub(super) mod segment_output;
pub(super) mod segment_state;
pub(super) mod state_scan;

use std::ops::Range;

use super::heads::Heads;
use crate::error::Error;
use crate::plan::Plan;
use crate::plan::segments::Segment;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;

/// Linear attention in f32 as the shaders compute it, with the plan of a device that has
/// wgpu's default limits.
///
/// # Errors
///
/// A config, shape or inputs that no call would accept.
pub fn mirror(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
    let limits = wgpu::Limits {
        // The host has no such limits, and the result does not depend on them.
        max_storage_buffer_binding_size: u64::MAX,
        max_buffer_size: u64::MAX,
        ..wgpu::Limits::default()
    };
    config.validate()?;
    let tuning = Tuning::new(config, &limits, wgpu::DeviceType::Other)?;
    mirror_with_plan(&Plan::new(config, shape, &limits, &tuning)?, inputs)
}

/// The same with the segments and layout of `plan`.
///
/// # Errors
///
/// Inputs that do not fit the plan's shape, or lengths that only a buffer knows.
pub fn mirror_with_plan(plan: &Plan, inputs: Inputs<'_>) -> Result<Output, Error> {
    if plan.segment_list().is_none() {
        return Err(Error::HostShape { what: "packed_up_to" });
    }
    inputs.check(plan.config(), plan.shape())?;
    let [q, k, v] = inputs.rounded(plan.config().dtype);
    let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
    let mut states = segment_state::segment_state(plan, inputs);
    state_scan::state_scan(plan, inputs, &mut states);
    Ok(segment_output::segment_output(plan, inputs, &states))
}

/// The segments of all sequences; none where only a buffer knows them.
fn segments(plan: &Plan) -> impl Iterator<Item = Segment> {
    plan.segment_list().unwrap_or_default().into_iter()
}

/// The sizes of a plan, and its feature maps.
struct Sizes<'a> {
    config: &'a Config,
    heads: Heads,
    of_keys: Phi<'a>,
    of_queries: Phi<'a>,
    key_dim: usize,
    /// F.
    features: usize,
    value_dim: usize,
    /// Elements of nu of a value head: F, or 0 where o is not normalised.
    nu_len: usize,
    /// Features of a thread's tile.
    tile_features: usize,
}

impl<'a> Sizes<'a> {
    fn new(plan: &'a Plan, inputs: Inputs<'a>) -> Self {
        let config = plan.config();
        let features = config.features() as usize;
        Self {
            config,
            heads: Heads::new(plan.shape()),
            of_keys: Phi::of_keys(config, inputs.weights),
            of_queries: Phi::of_queries(config, inputs.weights),
            key_dim: config.key_dim as usize,
            features,
            value_dim: config.value_dim as usize,
            nu_len: if config.is_normalized() { features } else { 0 },
            tile_features: plan.layout().tile_rows(plan.config()) as usize,
        }
    }

    /// Elements of a state: mu `[E,F,V]`, then nu `[E,F]` where o is normalised.
    fn state_len(&self) -> usize {
        self.heads.value * (self.features * self.value_dim + self.nu_len)
    }

    fn states(&self, count: usize) -> Vec<f32> {
        vec![0.0; count * self.state_len()]
    }

    /// The elements of mu and nu of value head e in state `index` of several.
    fn elements(&self, index: usize, e: usize) -> [Range<usize>; 2] {
        let mu_len = self.features * self.value_dim;
        let begin = index * self.state_len();
        let mu = begin + e * mu_len;
        let nu = begin + self.heads.value * mu_len + e * self.nu_len;
        [mu..mu + mu_len, nu..nu + self.nu_len]
    }
}

/// The state of a value head, which a workgroup holds while it iterates over a segment.
struct State {
    mu: Vec<f32>,
    /// Empty where o is not normalised.
    nu: Vec<f32>,
}

impl State {
    fn zero(sizes: &Sizes<'_>) -> Self {
        Self { mu: vec![0.0; sizes.features * sizes.value_dim], nu: vec![0.0; sizes.nu_len] }
    }

    fn load(sizes: &Sizes<'_>, states: &[f32], index: usize, e: usize) -> Self {
        let [mu, nu] = sizes.elements(index, e);
        Self { mu: states[mu].to_vec(), nu: states[nu].to_vec() }
    }

    fn store(&self, sizes: &Sizes<'_>, states: &mut [f32], index: usize, e: usize) {
        let [mu, nu] = sizes.elements(index, e);
        states[mu].copy_from_slice(&self.mu);
        states[nu].copy_from_slice(&self.nu);
    }

    /// `mu += k'^T v`, `nu += k'`, of token t.
    fn update(&mut self, sizes: &Sizes<'_>, inputs: Inputs<'_>, t: usize, e: usize) {
        let value = &inputs.v[sizes.heads.value_row(t, e) * sizes.value_dim..][..sizes.value_dim];
        let x = &inputs.k[sizes.heads.key_row(t, e) * sizes.key_dim..][..sizes.key_dim];
        let mut key = vec![0.0; sizes.features];
        sizes.of_keys.row(x, sizes.heads.key_head(e), &mut key);
        for (nu, k) in self.nu.iter_mut().zip(&key) {
            *nu += k;
        }
        for (mu, k) in self.mu.chunks_mut(sizes.value_dim).zip(&key) {
            for (mu, v) in mu.iter_mut().zip(value) {
                *mu += k * v;
            }
        }
    }
}

//! The arithmetic of the shaders in f32, one file a stage.
//!
//! Each function has the name of its stage, and reads and writes the same tensors. The threads of a
//! workgroup become the inner loops, and only the order of additions that matters is kept: tokens
//! one after the other, features in the partial sums that threads hold. Two stages have no file of
//! their own, since their arithmetic is that of [`segment_output`]: `decode_step` is a segment a
//! sequence, and `output_sum` adds the partial sums of feature blocks as threads do those of
//! feature tiles.

mod matrices;
pub(super) mod segment_output;
pub(super) mod segment_state;
pub(super) mod segment_transition;
pub(super) mod state_scan;
pub(super) mod transition_scan;

use std::ops::Range;

use crate::error::Error;
use crate::plan::Plan;
use crate::plan::segments::Segment;
use crate::plan::tuning::Tuning;
use crate::problem::config::{Config, Gating};
use crate::problem::feature_map::phi::Phi;
use crate::problem::gates::{Gates, row_of_element};
use crate::problem::heads::Heads;
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
    if plan.has_transitions() {
        let transitions = segment_transition::segment_transition(plan, inputs);
        transition_scan::transition_scan(plan, inputs, &transitions, &mut states);
    } else {
        state_scan::state_scan(plan, inputs, &mut states);
    }
    Ok(segment_output::segment_output(plan, inputs, &states))
}

/// The segments of all sequences; none where only a buffer knows them.
fn segments(plan: &Plan) -> impl Iterator<Item = Segment> {
    plan.segment_list().unwrap_or_default().into_iter()
}

/// Decays of a segment and value head as scratch has them: 0, 1, or those of all vec4s of F.
fn decay_rows(sizes: &Sizes<'_>) -> usize {
    match sizes.config.gates() {
        Some(Gating::PerRow) => sizes.features.next_multiple_of(4),
        _ => sizes.config.decay_rows() as usize,
    }
}

/// The factor of the state before each segment, less 1: `[segments,E,1 or F]`, as
/// `segment_state` stores it; 0 for a segment that no other one follows.
pub(crate) fn segment_decays(plan: &Plan, inputs: Inputs<'_>) -> Vec<f32> {
    let sizes = Sizes::new(plan, inputs);
    let (rows, value_heads) = (decay_rows(&sizes), sizes.heads.value);
    let mut decays = vec![0.0; plan.segment_capacity() as usize * value_heads * rows];
    for segment in segments(plan).filter(|segment| !segment.is_last) {
        for e in 0..value_heads {
            let decays = &mut decays[(segment.number * value_heads + e) * rows..][..rows];
            for (f, total) in decays.iter_mut().enumerate().take(sizes.features) {
                for t in segment.tokens.clone() {
                    let m = sizes.gates.decay(t, e, f).map_or(0.0, f32::exp_m1);
                    // (1 + m) (1 + m') = 1 + m + m' (1 + m)
                    *total = if m == -1.0 { -1.0 } else { *total + m * (1.0 + *total) };
                }
            }
        }
    }
    decays
}

/// The sizes of a plan, and its feature maps.
struct Sizes<'a> {
    config: &'a Config,
    heads: Heads,
    gates: Gates<f32>,
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
            heads: Heads::new(config, plan.shape()),
            of_keys: Phi::of_keys(config, inputs.weights),
            gates: Gates::new(config, plan.shape(), inputs),
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

    /// The value head and the feature of an element of a state.
    fn row_of_element(&self, element: usize) -> (usize, usize) {
        let sizes = [self.heads.value, self.features, self.value_dim, self.nu_len];
        row_of_element(element, sizes)
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

    /// Token t enters the state. With `m = exp(decay) - 1`, which keeps the digits of a decay near
    /// 0: `mu += m mu`, `u = v` or `beta (v - k' mu)`, `mu += k'^T u`; and nu alike.
    fn update(&mut self, sizes: &Sizes<'_>, inputs: Inputs<'_>, t: usize, e: usize) {
        let value = &inputs.v[sizes.heads.value(t, e)..][..sizes.value_dim];
        self.update_with(sizes, inputs, [t, e], value.to_vec());
    }

    /// The same with another value.
    fn update_with(
        &mut self,
        sizes: &Sizes<'_>,
        inputs: Inputs<'_>,
        [t, e]: [usize; 2],
        mut value: Vec<f32>,
    ) {
        let x = &inputs.k[sizes.heads.key(t, e)..][..sizes.key_dim];
        let mut key = vec![0.0; sizes.features];
        sizes.of_keys.row(x, sizes.heads.key_head(e), &mut key);
        for (f, mu) in self.mu.chunks_mut(sizes.value_dim).enumerate() {
            let Some(m) = sizes.gates.decay(t, e, f).map(f32::exp_m1) else { continue };
            mu.iter_mut().for_each(|mu| *mu += m * *mu);
            if let Some(nu) = self.nu.get_mut(f) {
                *nu += m * *nu;
            }
        }
        if let Some(beta) = sizes.gates.beta(t, e) {
            let recalled = self.sums_over_features(sizes, &key);
            for (u, recalled) in value.iter_mut().zip(recalled) {
                *u = beta * (*u - recalled);
            }
        }
        for (nu, k) in self.nu.iter_mut().zip(&key) {
            *nu += k;
        }
        for (mu, k) in self.mu.chunks_mut(sizes.value_dim).zip(&key) {
            for (mu, u) in mu.iter_mut().zip(&value) {
                *mu += k * u;
            }
        }
    }

    /// `x mu`: each thread along F adds its own features, and the partial sums are added last.
    fn sums_over_features(&self, sizes: &Sizes<'_>, x: &[f32]) -> Vec<f32> {
        let (mut sums, mut partial_sum) = (vec![0.0; sizes.value_dim], vec![0.0; sizes.value_dim]);
        let tiles = self.mu.chunks(sizes.tile_features * sizes.value_dim);
        for (x, mu) in x.chunks(sizes.tile_features).zip(tiles) {
            partial_sum.fill(0.0);
            for (x, mu) in x.iter().zip(mu.chunks(sizes.value_dim)) {
                for (partial_sum, mu) in partial_sum.iter_mut().zip(mu) {
                    *partial_sum += x * mu;
                }
            }
            for (sum, partial_sum) in sums.iter_mut().zip(&partial_sum) {
                *sum += partial_sum;
            }
        }
        sums
    }
}

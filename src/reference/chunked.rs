//! The shaders' arithmetic in f32, stage by stage, segment by segment.
//!
//! Each function has the name of its stage and reads and writes what the stage does. A
//! workgroup's threads become the inner loops, and only the order of additions that
//! matters is kept: tokens one after the other, features in the shares that threads hold.

use crate::error::Error;
use crate::plan::Plan;
use crate::plan::segments::Segment;
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output, join_states, split_states};
use crate::problem::shape::Shape;

use super::{Phi, Rows, check_weights};

/// Linear attention in f32 as the shaders compute it, with the plan of a device that has
/// wgpu's default limits.
///
/// # Errors
///
/// A config, shape or inputs that no call would accept.
pub fn chunked(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
    let limits = wgpu::Limits {
        // The host has no such limits, and the result does not depend on them.
        max_storage_buffer_binding_size: u64::MAX,
        max_buffer_size: u64::MAX,
        ..wgpu::Limits::default()
    };
    chunked_with_plan(&Plan::new(config, shape, &limits)?, inputs)
}

/// The same with the segments and layout of `plan`.
///
/// # Errors
///
/// Inputs that do not fit the plan's shape, or lengths that only a buffer knows.
pub fn chunked_with_plan(plan: &Plan, inputs: Inputs<'_>) -> Result<Output, Error> {
    inputs.check(plan.lens())?;
    check_weights(plan.config(), plan.shape(), inputs.weights)?;
    if plan.segment_list().is_none() {
        return Err(Error::HostShape { what: "packed_at_most" });
    }
    let [q, k, v] = inputs.rounded(plan.config().dtype);
    let inputs = Inputs { q: &q, k: &k, v: &v, ..inputs };
    let mut states = segment_state(plan, inputs);
    state_scan(plan, inputs, &mut states);
    Ok(segment_output(plan, inputs, &states))
}

/// Mirror of `segment_state.wgsl`: what each segment that another follows adds, as a state for
/// each number that a segment can have; 0 for the others.
#[must_use]
pub fn segment_state(plan: &Plan, inputs: Inputs<'_>) -> Vec<f32> {
    let sizes = Sizes::new(plan);
    let mut states = sizes.states(plan.segment_places() as usize);
    for segment in segments(plan).filter(|segment| !segment.is_last) {
        for g in 0..sizes.rows.kv_heads {
            let mut state = State::zero(&sizes);
            for t in segment.tokens.clone() {
                state.add_token(&sizes, inputs, t, g);
            }
            state.store(&sizes, &mut states, segment.number, g);
        }
    }
    states
}

/// Mirror of `state_scan.wgsl`: in place, from what each segment adds to what each segment
/// starts from.
pub fn state_scan(plan: &Plan, inputs: Inputs<'_>, states: &mut [f32]) {
    let n = plan.shape().sequences() as usize;
    let len = Sizes::new(plan).state_len();
    let mut sums = match inputs.initial {
        Some(initial) => join_states(n, initial.mu, initial.nu),
        None => vec![0.0; n * len],
    };
    // What rounding took from each sum so far.
    let mut all_lost = vec![0.0; n * len];
    for segment in segments(plan) {
        let sums = &mut sums[segment.n * len..][..len];
        let lost = &mut all_lost[segment.n * len..][..len];
        let states = &mut states[segment.number * len..][..len];
        for ((sum, lost), state) in sums.iter_mut().zip(lost).zip(states) {
            let added = *state - *lost;
            *state = *sum;
            if !segment.is_last {
                let next = *sum + added;
                *lost = (next - *sum) - added;
                *sum = next;
            }
        }
    }
}

/// Mirror of `segment_output.wgsl`, and of `decode_step.wgsl`, which has one segment a
/// sequence: the outputs from the states that segments start from, and the final state.
#[must_use]
pub fn segment_output(plan: &Plan, inputs: Inputs<'_>, starts: &[f32]) -> Output {
    let sizes = Sizes::new(plan);
    let lens = plan.lens();
    let mut o = vec![0.0; lens.o as usize];
    let sequences = plan.shape().sequences() as usize;
    let mut ends = sizes.states(sequences);
    let group = sizes.rows.heads / sizes.rows.kv_heads;
    for segment in segments(plan) {
        for g in 0..sizes.rows.kv_heads {
            let mut state = State::load(&sizes, starts, segment.number, g);
            for t in segment.tokens.clone() {
                state.add_token(&sizes, inputs, t, g);
                for h in g * group..(g + 1) * group {
                    let row = sizes.rows.q(t, h);
                    let o = &mut o[row * sizes.value_dim..][..sizes.value_dim];
                    state.apply(&sizes, inputs, row, o);
                }
            }
            if segment.is_last {
                state.store(&sizes, &mut ends, segment.n, g);
            }
        }
    }
    let (mu, nu) = split_states(sequences, lens.mu as usize, &ends);
    Output::new(o, mu, nu)
}

/// None where only a buffer knows them, which `chunked_with_plan` refuses.
fn segments(plan: &Plan) -> impl Iterator<Item = Segment> {
    plan.segment_list().unwrap_or_default().into_iter()
}

struct Sizes<'a> {
    config: &'a Config,
    rows: Rows,
    key_dim: usize,
    /// F.
    features: usize,
    value_dim: usize,
    tile_features: usize,
}

impl<'a> Sizes<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            config: plan.config(),
            rows: Rows::new(plan.shape()),
            key_dim: plan.config().key_dim as usize,
            features: plan.config().features() as usize,
            value_dim: plan.config().value_dim as usize,
            tile_features: plan.layout().features() as usize,
        }
    }

    /// Elements of a state: mu `[G,F,V]`, then nu `[G,F]`.
    fn state_len(&self) -> usize {
        self.rows.kv_heads * self.features * (self.value_dim + 1)
    }

    fn states(&self, count: usize) -> Vec<f32> {
        vec![0.0; count * self.state_len()]
    }

    /// Where mu and nu of a key/value head are among states.
    fn state_at(&self, number: usize, g: usize) -> [std::ops::Range<usize>; 2] {
        let mu_len = self.features * self.value_dim;
        let begin = number * self.state_len();
        let mu = begin + g * mu_len;
        let nu = begin + self.rows.kv_heads * mu_len + g * self.features;
        [mu..mu + mu_len, nu..nu + self.features]
    }
}

/// What a workgroup holds of one key/value head.
struct State {
    mu: Vec<f32>,
    nu: Vec<f32>,
}

impl State {
    fn zero(sizes: &Sizes<'_>) -> Self {
        Self { mu: vec![0.0; sizes.features * sizes.value_dim], nu: vec![0.0; sizes.features] }
    }

    fn load(sizes: &Sizes<'_>, states: &[f32], number: usize, g: usize) -> Self {
        let [mu, nu] = sizes.state_at(number, g);
        Self { mu: states[mu].to_vec(), nu: states[nu].to_vec() }
    }

    fn store(&self, sizes: &Sizes<'_>, states: &mut [f32], number: usize, g: usize) {
        let [mu, nu] = sizes.state_at(number, g);
        states[mu].copy_from_slice(&self.mu);
        states[nu].copy_from_slice(&self.nu);
    }

    fn add_token(&mut self, sizes: &Sizes<'_>, inputs: Inputs<'_>, t: usize, g: usize) {
        let row = sizes.rows.kv(t, g);
        let value = &inputs.v[row * sizes.value_dim..][..sizes.value_dim];
        let mut key = vec![0.0; sizes.features];
        let of_keys = Phi::of_keys(sizes.config, inputs.weights);
        of_keys.row(&inputs.k[row * sizes.key_dim..][..sizes.key_dim], g, &mut key);
        for (f, k) in key.into_iter().enumerate() {
            self.nu[f] += k;
            let mu = &mut self.mu[f * sizes.value_dim..][..sizes.value_dim];
            for (mu, v) in mu.iter_mut().zip(value) {
                *mu += k * v;
            }
        }
    }

    fn apply(&self, sizes: &Sizes<'_>, inputs: Inputs<'_>, row: usize, o: &mut [f32]) {
        let group = sizes.rows.heads / sizes.rows.kv_heads;
        let of_queries = Phi::of_queries(sizes.config, inputs.weights, group, true);
        let mut query = vec![0.0; sizes.features];
        let x = &inputs.q[row * sizes.key_dim..][..sizes.key_dim];
        let shift: f32 = of_queries.row(x, row % sizes.rows.heads, &mut query);
        // Each thread along F adds up its own features; the shares are added last.
        o.fill(0.0);
        let mut share = vec![0.0; sizes.value_dim];
        for (tile, features) in query.chunks(sizes.tile_features).enumerate() {
            share.fill(0.0);
            for (f, q) in features.iter().enumerate() {
                let feature = tile * sizes.tile_features + f;
                let mu = &self.mu[feature * sizes.value_dim..][..sizes.value_dim];
                for (share, mu) in share.iter_mut().zip(mu) {
                    *share += q * mu;
                }
            }
            for (o, share) in o.iter_mut().zip(&share) {
                *o += share;
            }
        }
        let mut weight = 0.0;
        for (quad, features) in query.chunks(4).enumerate() {
            let dot: f32 = features.iter().zip(&self.nu[4 * quad..]).map(|(q, nu)| q * nu).sum();
            weight += dot;
        }
        let scale = sizes.config.scale;
        let quotient = |scale: f32, denominator: f32| match denominator {
            0.0 => 0.0,
            _ => scale / denominator,
        };
        let factor = match sizes.config.normalization.eps() {
            None => scale * shift.exp(),
            Some(eps) if shift == 0.0 => quotient(scale, scale * weight + eps),
            // What a query was mapped less, the logarithm of eps is less as well.
            Some(eps) => match eps.ln().max(f32::MIN) - shift {
                log_eps if log_eps > 0.0 => {
                    let scale = scale * (-log_eps).exp();
                    quotient(scale, scale * weight + 1.0)
                }
                log_eps => quotient(scale, scale * weight + log_eps.exp()),
            },
        };
        for o in o.iter_mut() {
            *o *= factor;
        }
    }
}

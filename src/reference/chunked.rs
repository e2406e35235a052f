//! The shaders' arithmetic in f32, stage by stage, segment by segment.
//!
//! Each function has the name of its stage and reads and writes what the stage does. A
//! workgroup's threads become the inner loops, and only the order of additions that
//! matters is kept: tokens one after the other, features in the shares that threads hold.

use crate::{Config, Error, FeatureMap, Inputs, Output, Plan, Shape};

use super::Rows;

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
/// Inputs that do not fit the plan's shape.
pub fn chunked_with_plan(plan: &Plan, inputs: Inputs<'_>) -> Result<Output, Error> {
    inputs.check(plan.lens())?;
    if plan.segments() == 1 {
        let zero = (vec![0.0; plan.lens().mu as usize], vec![0.0; plan.lens().nu as usize]);
        let (mu, nu) = match inputs.initial {
            Some(initial) => (initial.mu.to_vec(), initial.nu.to_vec()),
            None => zero,
        };
        return Ok(segment_output(plan, inputs, &mu, &nu));
    }
    let (mut mu, mut nu) = segment_state(plan, inputs);
    state_scan(plan, inputs, &mut mu, &mut nu);
    Ok(segment_output(plan, inputs, &mu, &nu))
}

/// Mirror of `shaders/segment_state.wgsl`: what each segment but the last adds, as
/// mu `[N,S,G,F,V]` and nu `[N,S,G,F]`, 0 in the last segment's place.
#[must_use]
pub fn segment_state(plan: &Plan, inputs: Inputs<'_>) -> (Vec<f32>, Vec<f32>) {
    let sizes = Sizes::new(plan);
    let mut mu = vec![0.0; plan.lens().mu as usize * sizes.segments];
    let mut nu = vec![0.0; plan.lens().nu as usize * sizes.segments];
    for n in 0..sizes.batch {
        for segment in 0..sizes.segments - 1 {
            for g in 0..sizes.rows.kv_heads {
                let mut state = State::zero(&sizes);
                for t in sizes.tokens(segment) {
                    state.add_token(&sizes, inputs, n, t, g);
                }
                let at = (n * sizes.segments + segment) * sizes.rows.kv_heads + g;
                state.store(&sizes, at, &mut mu, &mut nu);
            }
        }
    }
    (mu, nu)
}

/// Mirror of `shaders/state_scan.wgsl`: in place, from what each segment adds to what
/// each segment starts from.
pub fn state_scan(plan: &Plan, inputs: Inputs<'_>, mu: &mut [f32], nu: &mut [f32]) {
    let scan = |initial: Option<&[f32]>, states: &mut [f32], len: usize| {
        let segments = plan.segments() as usize;
        for n in 0..plan.shape().batch as usize {
            for i in 0..len {
                let mut sum = initial.map_or(0.0, |initial| initial[n * len + i]);
                for s in 0..segments - 1 {
                    let at = (n * segments + s) * len + i;
                    let added = states[at];
                    states[at] = sum;
                    sum += added;
                }
                states[(n * segments + segments - 1) * len + i] = sum;
            }
        }
    };
    let batch = plan.shape().batch as usize;
    scan(inputs.initial.map(|i| i.mu), mu, plan.lens().mu as usize / batch);
    scan(inputs.initial.map(|i| i.nu), nu, plan.lens().nu as usize / batch);
}

/// Mirror of `shaders/segment_output.wgsl`: the outputs from the states that segments
/// start from, and the final state.
#[must_use]
pub fn segment_output(
    plan: &Plan,
    inputs: Inputs<'_>,
    start_mu: &[f32],
    start_nu: &[f32],
) -> Output {
    let sizes = Sizes::new(plan);
    let lens = plan.lens();
    let mut out = Output::new(
        vec![0.0; lens.o as usize],
        vec![0.0; lens.mu as usize],
        vec![0.0; lens.nu as usize],
    );
    let group = sizes.rows.heads / sizes.rows.kv_heads;
    for n in 0..sizes.batch {
        for segment in 0..sizes.segments {
            for g in 0..sizes.rows.kv_heads {
                let start = (n * sizes.segments + segment) * sizes.rows.kv_heads + g;
                let mut state = State::load(&sizes, start, start_mu, start_nu);
                for t in sizes.tokens(segment) {
                    state.add_token(&sizes, inputs, n, t, g);
                    for h in g * group..(g + 1) * group {
                        let row = sizes.rows.q(n, t, h);
                        let o = &mut out.o[row * sizes.value_dim..][..sizes.value_dim];
                        state.apply(&sizes, inputs, row, o);
                    }
                }
                if segment + 1 == sizes.segments {
                    let end = n * sizes.rows.kv_heads + g;
                    state.store(&sizes, end, &mut out.mu, &mut out.nu);
                }
            }
        }
    }
    out
}

struct Sizes<'a> {
    config: &'a Config,
    rows: Rows,
    batch: usize,
    key_dim: usize,
    value_dim: usize,
    segments: usize,
    segment_len: usize,
    tile_features: usize,
}

impl<'a> Sizes<'a> {
    fn new(plan: &'a Plan) -> Self {
        Self {
            config: plan.config(),
            rows: Rows::new(plan.shape()),
            batch: plan.shape().batch as usize,
            key_dim: plan.config().key_dim as usize,
            value_dim: plan.config().value_dim as usize,
            segments: plan.segments() as usize,
            segment_len: plan.segment_len() as usize,
            tile_features: plan.layout().features() as usize,
        }
    }

    fn tokens(&self, segment: usize) -> std::ops::Range<usize> {
        let begin = segment * self.segment_len;
        begin..(begin + self.segment_len).min(self.rows.seq_len)
    }

    fn phi(&self, x: f32) -> f32 {
        match self.config.feature_map {
            FeatureMap::Identity => x,
            FeatureMap::Relu => x.max(0.0),
            FeatureMap::Elu => {
                if x >= 0.0 {
                    x + 1.0
                } else {
                    x.exp()
                }
            }
        }
    }
}

/// What a workgroup holds of one key/value head.
struct State {
    mu: Vec<f32>,
    nu: Vec<f32>,
}

impl State {
    fn zero(sizes: &Sizes<'_>) -> Self {
        Self { mu: vec![0.0; sizes.key_dim * sizes.value_dim], nu: vec![0.0; sizes.key_dim] }
    }

    fn load(sizes: &Sizes<'_>, at: usize, mu: &[f32], nu: &[f32]) -> Self {
        let len = sizes.key_dim * sizes.value_dim;
        Self {
            mu: mu[at * len..][..len].to_vec(),
            nu: nu[at * sizes.key_dim..][..sizes.key_dim].to_vec(),
        }
    }

    fn store(&self, sizes: &Sizes<'_>, at: usize, mu: &mut [f32], nu: &mut [f32]) {
        let len = sizes.key_dim * sizes.value_dim;
        mu[at * len..][..len].copy_from_slice(&self.mu);
        nu[at * sizes.key_dim..][..sizes.key_dim].copy_from_slice(&self.nu);
    }

    fn add_token(&mut self, sizes: &Sizes<'_>, inputs: Inputs<'_>, n: usize, t: usize, g: usize) {
        let row = sizes.rows.kv(n, t, g);
        let value = &inputs.v[row * sizes.value_dim..][..sizes.value_dim];
        for f in 0..sizes.key_dim {
            let k = sizes.phi(inputs.k[row * sizes.key_dim + f]);
            self.nu[f] += k;
            let mu = &mut self.mu[f * sizes.value_dim..][..sizes.value_dim];
            for (mu, v) in mu.iter_mut().zip(value) {
                *mu += k * v;
            }
        }
    }

    fn apply(&self, sizes: &Sizes<'_>, inputs: Inputs<'_>, row: usize, o: &mut [f32]) {
        let query: Vec<f32> = inputs.q[row * sizes.key_dim..][..sizes.key_dim]
            .iter()
            .map(|x| sizes.phi(*x))
            .collect();
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
        let factor = match sizes.config.normalization.eps() {
            None => scale,
            Some(eps) => {
                let denominator = scale * weight + eps;
                if denominator == 0.0 { 0.0 } else { scale / denominator }
            }
        };
        for o in o.iter_mut() {
            *o *= factor;
        }
    }
}

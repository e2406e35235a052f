//! The CPU engine against the reference.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod backward;
mod calls;
mod harness;
mod many;
mod numbers;
#[path = "../pieces/mod.rs"]
mod pieces;
mod pool;
mod strides;
mod summary;

use linear_attention::cpu::{CpuAttention, CpuPlan, StatePool};
use linear_attention::update_rule::{Beta, Decay};
use linear_attention::{Config, FeatureMap, Inputs, Normalization, Output, Shape, UpdateRule};

/// All the rules, with the widths that they are tested at.
fn configs(key_dim: u32, value_dim: u32) -> Vec<Config> {
    let linear = Config::new(key_dim, value_dim);
    let of = |rule| {
        linear
            .clone()
            .with_update_rule(rule)
            .with_feature_map(FeatureMap::Identity)
            .with_normalization(Normalization::None)
    };
    vec![
        linear.clone(),
        linear.clone().with_update_rule(UpdateRule::Gated(Decay::per_row())),
        of(UpdateRule::Gated(Decay::per_head())),
        of(UpdateRule::Delta(Beta::per_head())),
        of(UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head())),
        of(UpdateRule::GatedDelta(Decay::per_row(), Beta::per_head())),
    ]
}

/// Inputs of a call, no two numbers of which are the same.
struct Sample {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    decay: Vec<f32>,
    beta: Vec<f32>,
    mu: Vec<f32>,
    nu: Vec<f32>,
}

impl Sample {
    fn new(config: &Config, shape: &Shape, seed: f32) -> Self {
        let lens = shape.lens(config).unwrap();
        let waves = |len: u64, by: f32, from: f32, to: f32| -> Vec<f32> {
            let wave = |i: u64| ((i as f32 * by + seed).sin() * 0.5 + 0.5) * (to - from) + from;
            (0..len).map(wave).collect()
        };
        let keys = 1.0 / (config.key_dim as f32).sqrt();
        Self {
            q: waves(lens.q, 0.713, -1.0, 1.0),
            k: waves(lens.k, 1.137, -keys, keys),
            v: waves(lens.v, 0.377, -1.0, 1.0),
            decay: waves(lens.decay, 0.931, -0.3, 0.0),
            beta: waves(lens.beta, 0.577, 0.1, 0.9),
            mu: waves(lens.mu, 0.219, -0.5, 0.5),
            nu: waves(lens.nu, 0.619, 0.5, 1.0),
        }
    }

    fn inputs(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v);
        if !self.decay.is_empty() {
            inputs = inputs.with_decay(&self.decay);
        }
        if !self.beta.is_empty() {
            inputs = inputs.with_beta(&self.beta);
        }
        inputs
    }

    fn inputs_with_state(&self) -> Inputs<'_> {
        self.inputs().with_initial_state(&self.mu, &self.nu)
    }
}

fn plan(config: &Config, shape: &Shape) -> CpuPlan {
    CpuAttention::new(config.clone()).unwrap().plan(shape).unwrap()
}

/// Runs in a rayon pool of so many threads.
fn with_threads<T: Send>(threads: usize, run: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(run)
}

/// Fails unless two outputs are as near as sums in f32 are.
fn assert_near(found: &Output, expected: &Output) {
    for (found, expected) in
        [(&found.o, &expected.o), (&found.mu, &expected.mu), (&found.nu, &expected.nu)]
    {
        assert_slices_near(found, expected);
    }
}

fn assert_slices_near(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(1e-3f32, |most, x| most.max(x.abs()));
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() <= 1e-5 * largest, "{i}: {found} and {expected}");
    }
}

#[test]
fn everything_is_send_and_sync() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<CpuAttention>();
    is_send_and_sync::<CpuPlan>();
    is_send_and_sync::<StatePool>();
}

//! The feature maps: features against PyTorch's, the traps that other libraries fell into, the
//! distance from softmax, and refusals.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod golden;
mod refusals;
mod row_scale;
mod softmax;
mod traps;

use linear_attention::{Config, FeatureMap, Normalization};

fn config_of(map: FeatureMap, key_dim: u32, value_dim: u32) -> Config {
    let mut config = Config::new(key_dim, value_dim);
    config.feature_map = map;
    if !config.is_non_negative() {
        config.normalization = Normalization::None;
    }
    config
}

fn named(name: &str) -> FeatureMap {
    name.parse().unwrap()
}

const ALL: [&str; 18] = [
    "identity",
    "relu",
    "relu-squared",
    "elu",
    "exp",
    "silu",
    "sigmoid",
    "softmax",
    "t2r:5",
    "hedgehog",
    "hedgehog-joint",
    "product:5",
    "favor:7",
    "favor-hyperbolic:8",
    "fourier:8",
    "taylor",
    "dpfp:1",
    "dpfp:3",
];

#![doc = include_str!("crate.md")]

mod attention;
mod bound;
mod config;
mod error;
mod host;
mod layout;
mod params;
mod pipeline;
mod plan;
mod readback;
pub mod reference;
mod segments;
mod shape;
mod stage;
mod tensors;
#[cfg(not(target_arch = "wasm32"))]
mod tune;
mod tuning;
pub mod verify;

pub use attention::{LinearAttention, Options, ShaderChecks};
pub use bound::Bound;
pub use config::{Config, DEFAULT_EPS, Dtype, FeatureMap, MAX_DIM, Normalization};
pub use error::{BindError, ConfigError, Error, PlanError};
pub use host::{Inputs, Output, StateSlices};
pub use layout::Layout;
pub use plan::{Dispatch, Plan};
pub use readback::Readback;
pub use shape::{Lens, Shape};
pub use stage::Stage;
pub use tensors::{StateBinding, Tensors};
#[cfg(not(target_arch = "wasm32"))]
pub use tune::{Candidate, tune, tune_with};
pub use tuning::Tuning;
pub use wgpu;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

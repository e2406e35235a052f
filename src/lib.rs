#![doc = include_str!("crate.md")]

mod attention;
mod batch;
mod bound;
mod config;
mod custom;
mod dtype;
mod error;
mod feature_map;
mod host;
mod iterations;
mod kernels;
mod layout;
mod params;
mod pipeline;
mod plan;
mod pool;
mod projection;
mod random;
mod readback;
pub mod reference;
mod segments;
mod shape;
mod slots;
mod snapshot;
mod split;
mod stage;
mod tensors;
#[cfg(not(target_arch = "wasm32"))]
mod tune;
mod tuning;
pub mod verify;
mod weights;

pub use attention::{LinearAttention, Options, ShaderChecks};
pub use batch::{Batch, Entry, Status};
pub use bound::Bound;
pub use config::{Config, DEFAULT_EPS, MAX_DIM, Normalization};
pub use custom::CustomMap;
pub use dtype::Dtype;
pub use error::{BindError, ConfigError, Error, PlanError, PoolError, WeightsError};
pub use feature_map::{FeatureMap, MAX_FEATURES};
pub use host::{Inputs, Output, StateSlices, join_states, split_states};
pub use kernels::{Kernel, kernels};
pub use layout::Layout;
pub use plan::{Dispatch, MAX_DECODE_LEN, Plan};
pub use pool::StatePool;
pub use projection::Projection;
pub use readback::Readback;
pub use shape::{Lens, Packing, Shape};
pub use slots::Slot;
pub use snapshot::Snapshot;
pub use split::{Part, Split};
pub use stage::Stage;
pub use tensors::{Sequences, Tensors};
#[cfg(not(target_arch = "wasm32"))]
pub use tune::{Candidate, tune, tune_with};
pub use tuning::Tuning;
pub use weights::{WeightHeads, Weights, WeightsBinding, WeightsBuffer};
pub use wgpu;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/serving.md")]
struct Serving;

#[cfg(doctest)]
#[doc = include_str!("../docs/feature-maps.md")]
struct FeatureMaps;

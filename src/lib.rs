#![doc = include_str!("crate.md")]

mod attention;
mod backward;
mod bind;
#[cfg(feature = "cpu")]
pub mod cpu;
mod device;
pub mod error;
mod kernel;
mod pieces;
pub mod plan;
mod problem;
pub mod reference;
mod run;
pub mod serve;
mod shaders;
#[cfg(not(target_arch = "wasm32"))]
mod tune;
pub mod verify;

pub use attention::LinearAttention;
pub use bind::bound::Bound;
pub use bind::options::{Options, ShaderChecks};
pub use bind::tensors::Tensors;
#[cfg(not(target_arch = "wasm32"))]
pub use device::poller::Poller;
pub use device::readback::Readback;
pub use error::Error;
pub use plan::{Plan, States};
pub use problem::config::{Config, Normalization};
pub use problem::dtype::Dtype;
pub use problem::feature_map::FeatureMap;
pub use problem::io::{Inputs, Output};
pub use problem::shape::{Packing, Shape};
pub use problem::update_rule::UpdateRule;
pub use run::Progress;
pub use wgpu;

/// The feature maps, the caller's own among them, and their weights.
pub mod feature_map {
    pub use crate::bind::weights_buffer::{WeightsBinding, WeightsBuffer};
    pub use crate::problem::feature_map::custom::CustomMap;
    pub use crate::problem::feature_map::projection::Projection;
    pub use crate::problem::feature_map::weights::{WeightHeads, Weights};
    pub use crate::problem::feature_map::{FeatureMap, MAX_FEATURES};
}

/// Shapes, and how many elements their tensors have.
pub mod shape {
    pub use crate::problem::config::{MAX_KEY_DIM, MAX_VALUE_DIM};
    pub use crate::problem::shape::{Lens, PackedLimits, Packing, Shape};
    pub use crate::problem::strides::{Strides, TensorStrides};
}

/// The update rules of the state, with their decays and betas.
pub mod update_rule {
    pub use crate::problem::io::GateWeights;
    pub use crate::problem::update_rule::{
        Beta, BetaActivation, BetaDims, Decay, DecayActivation, DecayDims, UpdateRule,
    };
}

/// The backward pass: gradients of a loss by outputs and by inputs.
pub mod gradients {
    pub use crate::backward::Backward;
    #[cfg(feature = "mutation")]
    #[doc(hidden)]
    pub use crate::backward::Recipe;
    pub use crate::backward::bound::BoundBackward;
    pub use crate::backward::plan::BackwardPlan;
    pub use crate::backward::tensors::BackwardTensors;
    pub use crate::kernel::gradient::GradientStage;
    pub use crate::problem::gradients::{Gradients, OutputGradients};
}

/// States as buffers hold them and as slices.
pub mod state {
    pub use crate::problem::state::{StateSlices, join, split};
}

/// Sequences in pieces, for example on several machines: the change that a piece makes to a state,
/// and the join of two.
pub mod summary {
    pub use crate::pieces::Summary;
    pub use crate::pieces::form::Form;
    pub use crate::run::summary::Summarizer;
}

/// Sizes that fit a problem to a device, chosen or measured.
pub mod tuning {
    pub use crate::bind::matrix_units::MatrixUnits;
    pub use crate::device::subgroups::subgroup_lanes;
    pub use crate::kernel::layout::{Layout, RowSource};
    pub use crate::plan::support::{Kernel, kernels};
    pub use crate::plan::tuning::Tuning;
    #[cfg(not(target_arch = "wasm32"))]
    pub use crate::tune::{Candidate, tune, tune_with};
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../docs/serving.md")]
struct Serving;

#[cfg(doctest)]
#[doc = include_str!("../docs/coming-from-fla.md")]
struct ComingFromFla;

#[cfg(doctest)]
#[doc = include_str!("../docs/update-rules.md")]
struct UpdateRules;

#[cfg(doctest)]
#[doc = include_str!("../docs/onnx.md")]
struct Onnx;

#[cfg(doctest)]
#[doc = include_str!("../docs/feature-maps.md")]
struct FeatureMaps;

#[cfg(doctest)]
#[doc = include_str!("../docs/web.md")]
struct Web;

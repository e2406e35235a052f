//! The problem: the computation, and the shapes of its tensors.

pub(crate) mod config;
pub(crate) mod dtype;
pub(crate) mod entries;
pub(crate) mod feature_map;
pub(crate) mod gates;
pub(crate) mod gradients;
pub(crate) mod heads;
pub(crate) mod io;
pub(crate) mod shape;
pub(crate) mod state;
pub(crate) mod strides;
pub(crate) mod tensor;
pub(crate) mod update_rule;

//! The caller's buffers, checked and bound to the dispatches of a plan.

pub(crate) mod bound;
pub(crate) mod matrix_units;
pub(crate) mod options;
pub(crate) mod parts;
pub(crate) mod pipelines;
pub(crate) mod tensors;
pub(crate) mod weights_buffer;

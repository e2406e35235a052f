//! wgpu's objects: made, initialised and read back.

pub(crate) mod buffers;
#[cfg(feature = "mutation")]
pub(crate) mod failure;
pub(crate) mod readback;
pub(crate) mod scope;

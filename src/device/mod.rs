//! wgpu's objects: made, initialised and read back.

pub(crate) mod buffers;
pub(crate) mod readback;
pub(crate) mod scope;

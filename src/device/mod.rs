//! wgpu's objects: made, initialised and read back.

pub(crate) mod buffers;
pub(crate) mod driven;
#[cfg(feature = "mutation")]
pub(crate) mod failure;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod poll;
#[cfg(not(target_arch = "wasm32"))]
pub(crate) mod poller;
pub(crate) mod readback;
pub(crate) mod scope;
pub(crate) mod subgroups;

//! The kernels: stages, layouts, WGSL modules and the uniform they read.

pub(crate) mod layout;
pub(crate) mod params;
pub(crate) mod stage;

//! The kernels: stages, layouts, WGSL modules and the uniform they read.

pub(crate) mod assembler;
pub(crate) mod gradient;
pub(crate) mod layout;
pub(crate) mod numbers;
pub(crate) mod params;
pub(crate) mod stage;
#[cfg(test)]
mod tests;

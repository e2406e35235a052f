//! Config, Shape and Plan: arithmetic that refuses rather than wraps.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

use linear_attention::error::PlanError;
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Plan, Shape};

mod layouts;
mod refusals;
mod segments;

pub(crate) fn plan(config: &Config, shape: &Shape) -> Result<Plan, PlanError> {
    plan_within(config, shape, &Limits::default())
}

pub(crate) fn plan_within(
    config: &Config,
    shape: &Shape,
    limits: &Limits,
) -> Result<Plan, PlanError> {
    Plan::new(config, shape, limits, &Tuning::new(config, limits, DeviceType::Other)?)
}

//! One case on an implementation that takes slices.

use super::case::Case;
use super::compare::Row;
use super::device::compare;
use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;
use crate::reference;

pub(super) fn check(
    case: &Case,
    seed: u64,
    compute: &mut dyn FnMut(&Config, &Shape, Inputs<'_>) -> Result<Output, Error>,
) -> Result<Vec<Row>, Error> {
    let (config, shape) = (&case.config, &case.shape);
    let sample = case.sample(seed, &shape.lens(config)?);
    let inputs = sample.inputs();
    let truth = reference::recurrent(config, shape, inputs)?;
    let mirror = reference::mirror(config, shape, inputs)?;
    let found = compute(config, shape, inputs)?;
    Ok(compare(case, "whole", &truth, &mirror, &found))
}

//! The tolerance rule, and its result for one tensor.

use super::Case;
use crate::problem::dtype::Dtype;

/// The error of one tensor of one case. What is infinite is no number in JSON: it becomes `null`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Row {
    /// The case's name.
    pub case: String,
    /// The case's [group](Case::group).
    pub group: &'static str,
    /// `whole`, or the stage that ran alone.
    pub stage: &'static str,
    /// The tensor compared.
    pub tensor: &'static str,
    /// The device's largest absolute error against f64, less half a unit in the last place of the
    /// dtype that o is stored in; infinite where a value is missing.
    pub error: f64,
    /// The same of the f32 mirror.
    pub mirror_error: f64,
    /// The largest error that passes: twice the mirror's, plus [`FLOOR_ULP`] ulp of the
    /// largest value.
    pub bound: f64,
    /// `error / bound`.
    pub ratio: f64,
    /// True if the error is within the bound.
    pub passed: bool,
    /// The error that left nothing to compare; empty otherwise.
    pub message: String,
}

/// Ulp of the largest value that pass in any case: drivers may round `exp` and division
/// differently by this much.
pub const FLOOR_ULP: f64 = 8.0;

impl Row {
    pub(crate) fn new(
        case: &Case,
        stage: &'static str,
        tensor: &'static str,
        truth: &[f64],
        mirror: &[f32],
        found: &[f32],
    ) -> Self {
        // Only o is stored as the dtype says, and only by the device.
        let dtype = if tensor == "o" { case.config.dtype } else { Dtype::F32 };
        let error = largest_error(truth, found, dtype);
        let mirror_error = largest_error(truth, mirror, Dtype::F32);
        let largest = truth.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
        let bound = 2.0 * mirror_error + FLOOR_ULP * f64::from(f32::EPSILON) * largest;
        Self {
            case: case.name.to_owned(),
            group: case.group(),
            stage,
            tensor,
            error,
            mirror_error,
            bound,
            ratio: if bound > 0.0 { error / bound } else { 0.0 },
            passed: error <= bound,
            message: String::new(),
        }
    }

    pub(crate) fn failed(case: &Case, stage: &'static str, message: String) -> Self {
        Self {
            case: case.name.to_owned(),
            group: case.group(),
            stage,
            tensor: "",
            error: f64::INFINITY,
            mirror_error: 0.0,
            bound: 0.0,
            ratio: f64::INFINITY,
            passed: false,
            message,
        }
    }
}

/// The largest error beyond what storing costs.
fn largest_error(truth: &[f64], found: &[f32], dtype: Dtype) -> f64 {
    if truth.len() != found.len() {
        return f64::INFINITY;
    }
    truth.iter().zip(found).fold(0.0, |largest: f64, (truth, found)| {
        let found = f64::from(*found);
        let error = (truth - found).abs();
        // A stored value may have been rounded up to a larger binade.
        let storing = dtype.half_ulp(truth.abs().max(found.abs()));
        if error.is_nan() { f64::INFINITY } else { largest.max(error - storing) }
    })
}

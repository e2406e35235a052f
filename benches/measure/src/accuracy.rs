//! The error of a result.

use linear_attention::Dtype;

/// Largest error that holds, relative to the largest output.
pub const TOLERANCE: f64 = 2e-5;

/// The same on matrix units, whose factors are rounded to f16: `6 2^-11`, the bound for an average
/// of values in docs/kernels.md, "Matrix units".
pub const MATRIX_TOLERANCE: f64 = 6.0 / 2048.0;

/// The largest difference over the largest expected element, less the rounding of storing in
/// `dtype`; infinite where an element is NaN or infinite.
#[must_use]
pub fn relative_error(found: &[f32], expected: &[f64], dtype: Dtype) -> f64 {
    let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let error = found.iter().zip(expected).fold(0.0, |worst: f64, (found, expected)| {
        let found = f64::from(*found);
        let error = (found - expected).abs();
        let storing = dtype.half_ulp(expected.abs().max(found.abs()));
        if error.is_nan() { f64::INFINITY } else { worst.max(error - storing) }
    });
    if found.len() != expected.len() {
        f64::INFINITY
    } else if error == 0.0 {
        0.0
    } else {
        error / largest
    }
}

//! How far a result is from what it must be.

/// Largest error that holds, relative to the largest output.
pub const TOLERANCE: f64 = 2e-5;

/// The largest difference over the largest expected number; infinite where one is no number.
#[must_use]
pub fn relative_error(found: &[f32], expected: &[f64]) -> f64 {
    let largest = expected.iter().fold(0.0, |largest: f64, x| largest.max(x.abs()));
    let error = found.iter().zip(expected).fold(0.0, |worst: f64, (found, expected)| {
        let error = (f64::from(*found) - expected).abs();
        if error.is_nan() { f64::INFINITY } else { worst.max(error) }
    });
    if found.len() != expected.len() {
        f64::INFINITY
    } else if error == 0.0 {
        0.0
    } else {
        error / largest
    }
}

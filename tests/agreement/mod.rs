//! The three references against each other.

use approx::assert_abs_diff_eq;
use linear_attention::reference::{mirror, naive, recurrent};
use linear_attention::{Config, Inputs, Shape};

/// The least that a tolerance is relative to, and else the largest value.
pub(crate) fn largest(x: &[f64]) -> f64 {
    x.iter().fold(1e-3, |m: f64, x| m.max(x.abs()))
}

/// Fails unless the definition and the recurrence agree in f64, and the mirror with them in f32.
pub(crate) fn assert_the_three_agree(config: &Config, shape: &Shape, inputs: Inputs<'_>) {
    let a = naive(config, shape, inputs).unwrap();
    let b = recurrent(config, shape, inputs).unwrap();
    let c = mirror(config, shape, inputs).unwrap();
    for (a, b, c) in [(&a.o, &b.o, &c.o), (&a.mu, &b.mu, &c.mu), (&a.nu, &b.nu, &c.nu)] {
        assert_eq!([b.len(), c.len()], [a.len(); 2]);
        for ((a_i, b_i), c_i) in a.iter().zip(b).zip(c) {
            assert_abs_diff_eq!(a_i, b_i, epsilon = 1e-11 * largest(a));
            assert_abs_diff_eq!(*a_i, f64::from(*c_i), epsilon = 2e-5 * largest(a));
        }
    }
}

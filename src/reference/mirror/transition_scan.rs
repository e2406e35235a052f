//! Mirror of `transition_scan.wgsl`.

use super::{Sizes, segments};
use crate::plan::Plan;
use crate::problem::io::Inputs;
use crate::problem::state;

/// Mirror of `transition_scan.wgsl`: in place, from the state that each segment of a delta rule
/// ends with from zero, and the matrix by which it multiplies the one before, to the state that it
/// starts from.
pub fn transition_scan(plan: &Plan, inputs: Inputs<'_>, transitions: &[f32], states: &mut [f32]) {
    let sizes = Sizes::new(plan, inputs);
    let (n, len) = (plan.shape().sequences() as usize, sizes.state_len());
    let (features, value_dim) = (sizes.features, sizes.value_dim);
    let mut sums = match inputs.initial_state {
        Some(initial) => state::join(n, initial.mu, initial.nu),
        None => vec![0.0; n * len],
    };
    for segment in segments(plan) {
        let before = sums[segment.n * len..][..len].to_vec();
        let added = &mut states[segment.number * len..][..len];
        if !segment.is_last {
            for (i, sum) in sums[segment.n * len..][..len].iter_mut().enumerate() {
                let (e, f) = sizes.row_of_element(i);
                let matrix = (segment.number * sizes.heads.value + e) * features;
                let row = &transitions[(matrix + f) * features..][..features];
                let column = i % value_dim + e * features * value_dim;
                let of_row = |(j, m): (usize, &f32)| m * before[column + j * value_dim];
                let product: f32 = row.iter().enumerate().map(of_row).sum();
                *sum = added[i] + product;
            }
        }
        added.copy_from_slice(&before);
    }
}

//! Mirror of `state_scan.wgsl`.

use super::{Sizes, segments};
use crate::plan::Plan;
use crate::problem::io::Inputs;
use crate::problem::state;

/// Mirror of `state_scan.wgsl`: in place, from what each segment adds to the state that each segment
/// starts from.
pub fn state_scan(plan: &Plan, inputs: Inputs<'_>, states: &mut [f32]) {
    let n = plan.shape().sequences() as usize;
    let len = Sizes::new(plan, inputs).state_len();
    let mut sums = match inputs.initial_state {
        Some(initial) => state::join(n, initial.mu, initial.nu),
        None => vec![0.0; n * len],
    };
    // Kahan's compensation: what rounding took from a sum is given back with the next addition.
    let mut compensations = vec![0.0; n * len];
    for segment in segments(plan) {
        let sums = &mut sums[segment.n * len..][..len];
        let compensations = &mut compensations[segment.n * len..][..len];
        let states = &mut states[segment.number * len..][..len];
        for ((sum, compensation), state) in sums.iter_mut().zip(compensations).zip(states) {
            let added = *state - *compensation;
            *state = *sum;
            if !segment.is_last {
                let next = *sum + added;
                *compensation = (next - *sum) - added;
                *sum = next;
            }
        }
    }
}

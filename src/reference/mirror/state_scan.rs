//! Mirror of `state_scan.wgsl`.

use super::{Sizes, decay_rows, segment_decays, segments};
use crate::plan::Plan;
use crate::problem::io::Inputs;
use crate::problem::state;

/// Mirror of `state_scan.wgsl`: in place, from what each segment adds to the state that each
/// segment starts from.
pub fn state_scan(plan: &Plan, inputs: Inputs<'_>, states: &mut [f32]) {
    let n = plan.shape().sequences() as usize;
    let sizes = Sizes::new(plan, inputs);
    let len = sizes.state_len();
    let decays = segment_decays(plan, inputs);
    let rows = decay_rows(&sizes);
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
        for (i, ((sum, compensation), state)) in
            sums.iter_mut().zip(compensations).zip(states).enumerate()
        {
            let m = match rows {
                0 => 0.0,
                _ => {
                    let (e, f) = sizes.row_of_element(i);
                    decays[(segment.number * sizes.heads.value + e) * rows + f.min(rows - 1)]
                }
            };
            let added = *state + m * *sum - (*compensation + m * *compensation);
            *state = *sum;
            if !segment.is_last {
                let next = *sum + added;
                *compensation = (next - *sum) - added;
                *sum = next;
            }
        }
    }
}

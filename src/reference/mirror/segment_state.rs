//! Mirror of `segment_state.wgsl`.

use super::{Sizes, State, segments};
use crate::plan::Plan;
use crate::problem::io::Inputs;

/// Mirror of `segment_state.wgsl`: the state that each segment adds, for every segment index, where
/// another segment follows; 0 for the others.
#[must_use]
pub fn segment_state(plan: &Plan, inputs: Inputs<'_>) -> Vec<f32> {
    let sizes = Sizes::new(plan, inputs);
    let mut states = sizes.states(plan.segment_capacity() as usize);
    for segment in segments(plan).filter(|segment| !segment.is_last) {
        for e in 0..sizes.heads.value {
            let mut state = State::zero(&sizes);
            if plan.is_of_matrices() {
                let tokens = (segment.tokens.clone(), e);
                state.advance_in_chunks((plan, &sizes), inputs, tokens, Some(inputs.v), None);
            } else {
                segment.tokens.clone().for_each(|t| state.update(&sizes, inputs, t, e));
            }
            state.store(&sizes, &mut states, segment.number, e);
        }
    }
    states
}

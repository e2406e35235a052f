//! Mirror of `segment_transition.wgsl`.

use super::{Sizes, State, segments};
use crate::plan::Plan;
use crate::problem::io::Inputs;

/// Mirror of `segment_transition.wgsl`: the matrix `[F,F]` by which each segment of a delta rule
/// multiplies the state before it, `[segments,E,F,F]`; 0 for a segment that no other one follows.
#[must_use]
pub fn segment_transition(plan: &Plan, inputs: Inputs<'_>) -> Vec<f32> {
    let sizes = Sizes::new(plan, inputs);
    // The rule itself from the state I and without values, on F columns.
    let sizes = Sizes { value_dim: sizes.features, ..sizes };
    let (features, value_heads) = (sizes.features, sizes.heads.value);
    let len = features * features;
    let mut transitions = vec![0.0; plan.segment_capacity() as usize * value_heads * len];
    for segment in segments(plan).filter(|segment| !segment.is_last) {
        for e in 0..value_heads {
            let mut held = State::zero(&sizes);
            for f in 0..features {
                held.mu[f * features + f] = 1.0;
            }
            if plan.is_of_matrices() {
                let tokens = (segment.tokens.clone(), e);
                held.advance_in_chunks((plan, &sizes), inputs, tokens, None, None);
            } else {
                for t in segment.tokens.clone() {
                    held.update_with(&sizes, inputs, [t, e], vec![0.0; features]);
                }
            }
            let begin = (segment.number * value_heads + e) * len;
            transitions[begin..begin + len].copy_from_slice(&held.mu);
        }
    }
    transitions
}

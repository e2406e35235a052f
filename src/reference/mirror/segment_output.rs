//! Mirror of `segment_output.wgsl`; of `decode_step.wgsl`, which has one segment a sequence; and of
//! `output_sum.wgsl`, which adds the partial sums of feature blocks.

use std::ops::Range;

use super::{Sizes, State, segments};
use crate::plan::Plan;
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output};
use crate::problem::state;

/// Mirror of `segment_output.wgsl`, and of `decode_step.wgsl`, which has one segment a
/// sequence: the outputs from the state that each segment starts from, and the final state.
#[must_use]
pub fn segment_output(plan: &Plan, inputs: Inputs<'_>, states: &[f32]) -> Output {
    let sizes = Sizes::new(plan, inputs);
    let lens = plan.lens();
    let mut o = vec![0.0; lens.o as usize];
    let sequences = plan.shape().sequences() as usize;
    let mut final_states = sizes.states(sequences);
    for segment in segments(plan) {
        for e in 0..sizes.heads.value {
            let mut held = State::load(&sizes, states, segment.number, e);
            if plan.is_of_matrices() {
                let tokens = (segment.tokens.clone(), e);
                let v = Some(inputs.v);
                held.advance_in_chunks((plan, &sizes), inputs, tokens, v, Some(&mut o));
            } else {
                held.advance(&sizes, inputs, (segment.tokens.clone(), e), &mut o);
            }
            if segment.is_last {
                held.store(&sizes, &mut final_states, segment.n, e);
            }
        }
    }
    let (mu, nu) = state::split(sequences, lens.mu as usize, &final_states);
    Output::new(o, mu, nu)
}

impl State {
    /// Token by token: each enters the state, and its queries read it.
    fn advance(
        &mut self,
        sizes: &Sizes<'_>,
        inputs: Inputs<'_>,
        (tokens, e): (Range<usize>, usize),
        o: &mut [f32],
    ) {
        for t in tokens {
            self.update(sizes, inputs, t, e);
            for h in e * sizes.heads.value_group..(e + 1) * sizes.heads.value_group {
                let o = &mut o[sizes.heads.output(t, h)..][..sizes.value_dim];
                self.apply(sizes, inputs, [t, h, e], o);
            }
        }
    }

    /// The row of o of token t and output head h, which reads value head e.
    fn apply(&self, sizes: &Sizes<'_>, inputs: Inputs<'_>, [t, h, e]: [usize; 3], o: &mut [f32]) {
        let heads = &sizes.heads;
        let mut query = vec![0.0; sizes.features];
        let x = &inputs.q[heads.query(t, h)..][..sizes.key_dim];
        let head = sizes.of_queries.weights_head(heads.query_head(h), heads.key_head(e));
        let gain = sizes.of_queries.row(x, head, &mut query);
        o.copy_from_slice(&self.sums_over_features(sizes, &query));
        let mut weight = 0.0;
        for (query, nu) in query.chunks(4).zip(self.nu.chunks(4)) {
            weight += query.iter().zip(nu).map(|(q, nu)| q * nu).sum::<f32>();
        }
        let factor = row_factor(sizes.config, weight, gain);
        for o in o.iter_mut() {
            *o *= factor;
        }
    }
}

/// The factor of a row of q' mu whose weight q' . nu is given: the same as
/// `shaders/normalise.wgsl`.
pub(super) fn row_factor(config: &Config, weight: f32, gain: f32) -> f32 {
    let quotient = |x: f32, denominator: f32| match denominator.abs() {
        // Below every normal value, which some devices flush.
        ..f32::MIN_POSITIVE => 0.0,
        _ => x / denominator,
    };
    match config.normalization.eps() {
        None => config.scale / gain,
        // s is a common factor as well.
        Some(0.0) => quotient(1.0, weight),
        Some(eps) => quotient(config.scale, config.scale * weight + eps * gain),
    }
}

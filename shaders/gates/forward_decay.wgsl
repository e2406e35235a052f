// implements: stored_decay
//
// A decay as the forward pass stores it: exp(decay) - 1. A state decays by mu += m mu, one
// operation: where a decay is near 0, exp(decay) has lost its digits and m has not, and where it is
// very negative m is -1 and the state is forgotten exactly.

import gates/activations::{exp_less_1};

fn stored_decay(decay: f32) -> f32 { return exp_less_1(decay); }

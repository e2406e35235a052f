// implements: stored_decay
//
// A decay as the backward pass stores it: exp(decay) - 1, or -2^126 exp(decay) where that is less.
// 1 less than a small factor has lost the factor's digits: a state does not need them, since the
// tokens that follow outweigh what is left of it, but the gradients by strong decays are products
// with that factor.

import gates/activations::{exp_less_1};

const FACTOR_SCALE: f32 = 0x1p126f;

fn stored_decay(decay: f32) -> f32 {
    // Below, 2^126 exp(decay) is less than 1, and 0 is close enough.
    if (decay < -0.5 && decay > -87.0) { return -FACTOR_SCALE * exp(decay); }
    return exp_less_1(decay);
}

fn is_factor(stored: f32) -> bool { return stored < -1.0; }

// exp(decay)
fn decay_factor(stored: f32) -> f32 {
    return select(1.0 + stored, stored * (-1.0 / FACTOR_SCALE), is_factor(stored));
}

// exp(decay) x
fn decayed(stored: f32, x: f32) -> f32 {
    return select(x + stored * x, decay_factor(stored) * x, is_factor(stored));
}

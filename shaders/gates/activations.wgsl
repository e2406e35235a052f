// Decays and betas as a caller gives them, and what they are after their activations.

import constants::{BETA_ACTIVATION, BETA_IS_HALF, DECAY_ACTIVATION, DECAY_IS_CONSTANT, DECAY_IS_HALF};
import constants::{DECAY_ROWS, HAS_SHARED_BETA, LOWER_BOUND};
import params::{params};
import rows/half::{half_value};

@group(0) @binding(12) var<storage, read_write> decay: array<u32>;         // of any dtype, as words
@group(0) @binding(13) var<storage, read_write> beta: array<u32>;          // of any dtype, as words
@group(0) @binding(14) var<storage, read_write> gate_weights: array<f32>;  // A_log, then dt_bias

const ACTIVATION_SOFTPLUS: u32 = 1u;
const ACTIVATION_SIGMOID: u32 = 2u;

// The decay of a token and value head, in log space.
fn decay_of(row: u32, element: u32) -> f32 {
    let head = row % params.value_heads;
    var x = given_decay(row, element);
    if (DECAY_ACTIVATION == ACTIVATION_SOFTPLUS || DECAY_ACTIVATION == ACTIVATION_SIGMOID) {
        let rate = exp(gate_weights[head]);
        x += gate_weights[params.value_heads + head * DECAY_ROWS + element];
        if (DECAY_ACTIVATION == ACTIVATION_SOFTPLUS) {
            x = -rate * softplus(x);
        } else {
            x = LOWER_BOUND * sigmoid(rate * x);
        }
    }
    return x;
}

// The same before its activation.
fn given_decay(row: u32, element: u32) -> f32 {
    var at = row * DECAY_ROWS + element;
    if (DECAY_IS_CONSTANT) { at = row % params.value_heads; }
    if (DECAY_IS_HALF) { return half_of(decay[at / 2u], at); }
    return bitcast<f32>(decay[at]);
}

fn beta_of(row: u32) -> f32 {
    let x = given_beta(row);
    if (BETA_ACTIVATION == ACTIVATION_SIGMOID) { return sigmoid(x); }
    return x;
}

fn given_beta(row: u32) -> f32 {
    var at = row;
    if (HAS_SHARED_BETA) { at = row / params.value_heads; }
    if (BETA_IS_HALF) { return half_of(beta[at / 2u], at); }
    return bitcast<f32>(beta[at]);
}

// Element `at` of an array of which `word` holds two.
fn half_of(word: u32, at: u32) -> f32 {
    return half_value(select(word & 0xFFFFu, word >> 16u, at % 2u == 1u));
}

// ln(1 + e^x), without overflow.
fn softplus(x: f32) -> f32 {
    return max(x, 0.0) + ln_1_plus(exp(-abs(x)));
}

// ln(1 + x) for x in 0 .. 1: where 1 + x rounds, the logarithm is scaled by what is left of x.
fn ln_1_plus(x: f32) -> f32 {
    let sum = 1.0 + x;
    let kept = sum - 1.0;
    return select(log(sum) * (x / kept), x, kept == 0.0);
}

fn sigmoid(x: f32) -> f32 {
    let e = exp(-abs(x));
    return select(1.0, e, x < 0.0) / (1.0 + e);
}

// e^x - 1: near 0 its series, since the difference would cancel. Below -90 it is -1 exactly, -inf
// included.
fn exp_less_1(x: f32) -> f32 {
    if (abs(x) < 0.35) {
        let tail = 1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x * (1.0 / 40320.0)));
        let half_square = x * x * (0.5 + x * (1.0 / 6.0 + x * (1.0 / 24.0 + x * tail)));
        return x + half_square;
    }
    if (x < -90.0) { return -1.0; }
    return exp(x) - 1.0;
}

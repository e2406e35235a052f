// The gates of all tokens, after their activations: by how much less than 1 the state is kept, and beta.
//
//     m_i = exp(decay_i) - 1     decay_i = x_i, -exp(A_log) softplus(x_i + dt_bias)
//                                          or lower_bound sigmoid(exp(A_log) (x_i + dt_bias))
//     beta_i = y_i, or sigmoid(y_i)
//
// A state decays by mu += m mu: where a decay is near 0, exp(decay) has lost its digits and m has not,
// and where it is very negative m is -1 and the state is forgotten exactly.
//
// reads   decay [E], [T,E] or [T,E,F]  beta [T,E] or [T,1]  gate_weights [E] and [E] or [E,F]
// writes  gates [T,E,GATE_ROW]
// grid    a thread an element of gates, folded
// memory  none

import constants::{BETA_ACTIVATION, BETA_IS_HALF, DECAY_ACTIVATION, DECAY_IS_CONSTANT, DECAY_IS_HALF};
import constants::{DECAY_ROWS, GATE_BETA, GATE_ROW, HAS_BETA, HAS_SHARED_BETA, LOWER_BOUND};
import constants::{SCAN_THREADS};
import params::{params, workgroup_index};
import rows/half::{half_value};

@group(0) @binding(11) var<storage, read_write> gates: array<f32>;
@group(0) @binding(12) var<storage, read_write> decay: array<u32>;         // of any dtype, as words
@group(0) @binding(13) var<storage, read_write> beta: array<u32>;          // of any dtype, as words
@group(0) @binding(14) var<storage, read_write> gate_weights: array<f32>;  // A_log, then dt_bias

const ACTIVATION_SOFTPLUS: u32 = 1u;
const ACTIVATION_SIGMOID: u32 = 2u;

@compute @workgroup_size(SCAN_THREADS)
fn token_gates(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let row = i / GATE_ROW;
    let element = i % GATE_ROW;
    if (row >= params.total_tokens * params.value_heads) { return; }
    var gate = 0.0;
    if (element < DECAY_ROWS) {
        gate = exp_less_1(decay_of(row, element));
    } else if (HAS_BETA && element == GATE_BETA) {
        gate = beta_of(row);
    }
    gates[i] = gate;
}

// The decay of a token and value head, in log space.
fn decay_of(row: u32, element: u32) -> f32 {
    let head = row % params.value_heads;
    var at = row * DECAY_ROWS + element;
    if (DECAY_IS_CONSTANT) { at = head; }
    var x = bitcast<f32>(decay[select(at, at / 2u, DECAY_IS_HALF)]);
    if (DECAY_IS_HALF) { x = half_of(decay[at / 2u], at); }
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

fn beta_of(row: u32) -> f32 {
    var at = row;
    if (HAS_SHARED_BETA) { at = row / params.value_heads; }
    var x = bitcast<f32>(beta[select(at, at / 2u, BETA_IS_HALF)]);
    if (BETA_IS_HALF) { x = half_of(beta[at / 2u], at); }
    if (BETA_ACTIVATION == ACTIVATION_SIGMOID) { x = sigmoid(x); }
    return x;
}

// Element `at` of an array of which `word` holds two.
fn half_of(word: u32, at: u32) -> f32 {
    return half_value(select(word & 0xFFFFu, word >> 16u, at % 2u == 1u));
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

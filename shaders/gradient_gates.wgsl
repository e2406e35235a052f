// Gradients by the decays and betas as a caller gives them, from those by the decays in log space
// and by the betas, through the activations.
//
//     decay = -r softplus(y), or L sigmoid(r y)     with y = x + dt_bias, r = exp(A_log)
//     beta  = x, or sigmoid(x)
//
// reads   gates [T,E,GATE_ROW]  decay [E], [T,E] or [T,E,F]  beta [T,E] or [T,1]  gate_weights
// writes  of_decay  of_beta  of_gate_weights, each as what it is of
// grid    a thread an element of one of the three, folded
// memory  none

import constants::{BETA_ACTIVATION, DECAY_ACTIVATION, DECAY_IS_CONSTANT, DECAY_ROWS, GATE_BETA, GATE_ROW};
import constants::{HAS_BETA, HAS_DECAY, HAS_SHARED_BETA, LOWER_BOUND, SCAN_THREADS};
import gates/activations::{ACTIVATION_SIGMOID, ACTIVATION_SOFTPLUS, gate_weights, given_beta};
import gates/activations::{given_decay, sigmoid, softplus};
import params::{params, workgroup_index};

@group(0) @binding(11) var<storage, read_write> gates: array<f32>;
@group(0) @binding(26) var<storage, read_write> of_decay: array<f32>;
@group(0) @binding(27) var<storage, read_write> of_beta: array<f32>;
@group(0) @binding(28) var<storage, read_write> of_gate_weights: array<f32>;

// Decays of a token and value head; 1 where there are none, since constants are divided by it.
const ROWS: u32 = max(DECAY_ROWS, 1u);

@compute @workgroup_size(SCAN_THREADS)
fn gradient_gates(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let heads = params.value_heads;
    let rows = params.total_tokens * heads;
    if (HAS_DECAY) {
        let decays = select(rows * DECAY_ROWS, heads, DECAY_IS_CONSTANT);
        if (i < decays) {
            of_decay[i] = by_decay(i);
            return;
        }
        i -= decays;
    }
    if (HAS_BETA) {
        let betas = select(rows, params.total_tokens, HAS_SHARED_BETA);
        if (i < betas) {
            of_beta[i] = by_beta(i);
            return;
        }
        i -= betas;
    }
    if (DECAY_ACTIVATION == 0u) { return; }
    if (i < heads) {
        of_gate_weights[i] = by_rate(i);
    } else if (i - heads < heads * DECAY_ROWS) {
        of_gate_weights[i] = by_bias(i - heads);
    }
}

// A sum over tokens: what rounding took from it is given back with the next term, after Kahan, so
// that its error does not grow with T.
struct Sum {
    value: f32,
    excess: f32,    // of `value` over the sum of its terms
}

fn plus(sum: Sum, x: f32) -> Sum {
    let term = x - sum.excess;
    let next = sum.value + term;
    return Sum(next, (next - sum.value) - term);
}

// By element i of decay.
fn by_decay(i: u32) -> f32 {
    if (!DECAY_IS_CONSTANT) { return slope(i / ROWS, i % ROWS); }
    var sum = Sum();
    for (var t = 0u; t < params.total_tokens; t++) {
        sum = plus(sum, slope(t * params.value_heads + i, 0u));
    }
    return sum.value;
}

// By dt_bias, of a head and row of mu.
fn by_bias(i: u32) -> f32 {
    var sum = Sum();
    for (var t = 0u; t < params.total_tokens; t++) {
        sum = plus(sum, slope(t * params.value_heads + i / ROWS, i % ROWS));
    }
    return sum.value;
}

// By A_log of a head.
fn by_rate(head: u32) -> f32 {
    let rate = exp(gate_weights[head]);
    var sum = Sum();
    for (var t = 0u; t < params.total_tokens; t++) {
        for (var element = 0u; element < DECAY_ROWS; element++) {
            let row = t * params.value_heads + head;
            let of_gate = gates[row * GATE_ROW + element];
            let y = activated(row, element);
            var slope = -rate * softplus(y);
            if (DECAY_ACTIVATION == ACTIVATION_SIGMOID) { slope = sigmoid_slope(rate * y) * rate * y; }
            sum = plus(sum, select(slope * of_gate, 0.0, of_gate == 0.0));
        }
    }
    return sum.value;
}

// By an element of decay, before its activation. Padding has no gradient, whatever it holds.
fn slope(row: u32, element: u32) -> f32 {
    let of_gate = gates[row * GATE_ROW + element];
    if (of_gate == 0.0 || DECAY_ACTIVATION == 0u) { return of_gate; }
    let rate = exp(gate_weights[row % params.value_heads]);
    let y = activated(row, element);
    if (DECAY_ACTIVATION == ACTIVATION_SOFTPLUS) { return -rate * sigmoid(y) * of_gate; }
    return sigmoid_slope(rate * y) * rate * of_gate;
}

// x + dt_bias.
fn activated(row: u32, element: u32) -> f32 {
    let at = params.value_heads + row % params.value_heads * DECAY_ROWS + element;
    return given_decay(row, element) + gate_weights[at];
}

fn sigmoid_slope(x: f32) -> f32 { return LOWER_BOUND * sigmoid(x) * sigmoid(-x); }

// By element i of beta.
fn by_beta(i: u32) -> f32 {
    var sum = 0.0;
    let heads = select(1u, params.value_heads, HAS_SHARED_BETA);
    for (var e = 0u; e < heads; e++) {
        let row = i * heads + e;
        let of_gate = gates[row * GATE_ROW + GATE_BETA];
        if (of_gate != 0.0 && BETA_ACTIVATION == ACTIVATION_SIGMOID) {
            let x = given_beta(row);
            sum += sigmoid(x) * sigmoid(-x) * of_gate;
        } else {
            sum += of_gate;
        }
    }
    return sum;
}

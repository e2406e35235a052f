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

import constants::{DECAY_ROWS, GATE_BETA, GATE_ROW, HAS_BETA, SCAN_THREADS};
import gates/activations::{beta_of, decay_of};
import params::{params, workgroup_index};

@group(0) @binding(11) var<storage, read_write> gates: array<f32>;

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

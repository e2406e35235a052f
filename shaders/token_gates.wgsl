// The gates of all tokens, after their activations.
//
//     decay_i = x_i, -exp(A_log) softplus(x_i + dt_bias), or lower_bound sigmoid(exp(A_log) (x_i + dt_bias))
//     beta_i  = y_i, or sigmoid(y_i)
//
// exp(decay_i) is stored in a form that keeps its digits: see stored_decay.
//
// reads   decay [E], [T,E] or [T,E,F]  beta [T,E] or [T,1]  gate_weights [E] and [E] or [E,F]
// writes  gates [T,E,GATE_ROW]
// grid    a thread an element of gates, folded
// memory  none

import constants::{DECAY_ROWS, GATE_BETA, GATE_ROW, HAS_BETA, SCAN_THREADS};
import gates/activations::{beta_of, decay_of};
import params::{params, workgroup_index};
import stored_decay::{stored_decay};

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
        gate = stored_decay(decay_of(row, element));
    } else if (HAS_BETA && element == GATE_BETA) {
        gate = beta_of(row);
    }
    gates[i] = gate;
}

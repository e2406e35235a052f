// Gradients by rows of q and k, from those by the arguments of their maps; and by initial states.
//
//     dx = da, or W^T dy                       y = W x + b
//     dx = (dx' - x' (x' . dx')) / |x|         of x' = x / |x|, where rows are divided by their L2 norm
//
// reads   q [T,H,K]  k [T,G,K]  states
//         keys [T,E,FEATURE_VEC4]  queries [T,max(H,E),FEATURE_VEC4 + 1], or, where a map has weights,
//         projections [T,E + max(H,E),PROJECTION_ROW]  weights
// writes  of_q [T,H,K]  of_k [T,G,K]  of_initial_state [N,state]
// grid    a thread a row of k or q or an element of a state, folded
// memory  none

import constants::{ACCESS_ELEMENTS, KEY_DIM, L2_NORM, SCAN_THREADS};
import gradient/argument::{ROW_VEC4, RowIndex, elements};
import gradient/states::{states, states_len};
import params::{params, workgroup_index};
import row_gradient::{by_elements, gradient_row};

@group(0) @binding(24) var<storage, read_write> of_q: array<f32>;
@group(0) @binding(25) var<storage, read_write> of_k: array<f32>;
@group(0) @binding(31) var<storage, read_write> of_initial_state: array<f32>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_rows(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let key_rows = params.total_tokens * params.key_heads;
    let rows = key_rows + params.total_tokens * params.heads;
    if (i < key_rows) {
        let head = i % params.key_heads * params.key_group;
        pull_back(RowIndex(true, i / params.key_heads, head), params.key_group);
    } else if (i < rows) {
        let at = i - key_rows;
        let head = at % params.heads * params.query_group;
        pull_back(RowIndex(false, at / params.heads, head), params.query_group);
    } else if (i - rows < states_len()) {
        of_initial_state[i - rows] = states[states_len() + i - rows];
    }
}

// A row of k or of q, which `heads` heads from the first on read.
fn pull_back(first: RowIndex, heads: u32) {
    let row = gradient_row(first, heads);
    let at = row.x.begin * ACCESS_ELEMENTS;
    var along = 0.0;
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
        let dx = by_elements(row, x4);
        along += dot(elements(row.x, x4), dx);
        store(first.is_key, at, x4, dx);
    }
    // A row that nothing depends on, and a row of padding, have no gradient, whatever they hold.
    for (var x4 = 0u; L2_NORM && !row.is_zero && x4 < ROW_VEC4; x4++) {
        let dx = load(first.is_key, at, x4);
        store(first.is_key, at, x4, (dx - elements(row.x, x4) * along) * row.x.inverse_norm);
    }
}

// Of a row whose first element is given.
fn load(is_key: bool, at: u32, x4: u32) -> vec4<f32> {
    var dx = vec4<f32>(0.0);
    let begin = at + 4u * x4;
    for (var i = 0u; i < min(4u, KEY_DIM - 4u * x4); i++) {
        if (is_key) { dx[i] = of_k[begin + i]; } else { dx[i] = of_q[begin + i]; }
    }
    return dx;
}

fn store(is_key: bool, at: u32, x4: u32, dx: vec4<f32>) {
    let begin = at + 4u * x4;
    for (var i = 0u; i < min(4u, KEY_DIM - 4u * x4); i++) {
        if (is_key) { of_k[begin + i] = dx[i]; } else { of_q[begin + i] = dx[i]; }
    }
}

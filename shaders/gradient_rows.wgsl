// Gradients by rows of q and k, from those by their features, through the maps; and by initial states.
//
//     dx = phi'(x) dphi                       element-wise
//     dx = phi (dphi - phi . dphi)            the softmax of a row
//     dx = (dy - y (y . dy)) / |x|            of y = x / |x|, where rows are divided by their L2 norm
//
// reads   q [T,H,K]  k [T,G,K]  keys [T,E,FEATURE_VEC4]  queries [T,max(H,E),FEATURE_VEC4 + 1]  states
// writes  of_q [T,H,K]  of_k [T,G,K]  of_initial_state [N,state]
// grid    a thread a row of k or q or an element of a state, folded
// memory  none

import constants::{KEY_DIM, L2_NORM, SCAN_THREADS, SOFTMAX};
import gradient/map::{FEATURE_VEC4, MapRow, elements, keys, known, map_row, queries, slopes, unscaled};
import gradient/states::{states, states_len};
import heads::{row_begin};
import params::{params, workgroup_index};

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
        let t = i / params.key_heads;
        pull_back(map_row(true, row_begin(params.k, t, i % params.key_heads)), i);
    } else if (i < rows) {
        let at = i - key_rows;
        pull_back(map_row(false, row_begin(params.q, at / params.heads, at % params.heads)), at);
    } else if (i - rows < states_len()) {
        of_initial_state[i - rows] = states[states_len() + i - rows];
    }
}

fn pull_back(row: MapRow, at: u32) {
    // A row that nothing depends on, and a row of padding, have no gradient, whatever they hold.
    var is_zero = true;
    var of_softmax = 0.0;
    for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
        let of_feature = gradients(row, at, f4);
        is_zero = is_zero && all(of_feature == vec4<f32>(0.0));
        if (row.map == SOFTMAX) { of_softmax += dot(known(unscaled(row, f4), f4), of_feature); }
    }
    var along = 0.0;
    for (var f4 = 0u; L2_NORM && f4 < FEATURE_VEC4; f4++) {
        along += dot(known(elements(row, f4), f4), by_elements(row, at, f4, of_softmax));
    }
    for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
        var dx = by_elements(row, at, f4, of_softmax);
        if (L2_NORM) { dx = (dx - elements(row, f4) * along) * row.inverse_norm; }
        if (is_zero) { dx = vec4<f32>(0.0); }
        let begin = at * KEY_DIM + 4u * f4;
        for (var i = 0u; i < min(4u, KEY_DIM - 4u * f4); i++) {
            if (row.is_key) { of_k[begin + i] = dx[i]; } else { of_q[begin + i] = dx[i]; }
        }
    }
}

// By `elements` of the row.
fn by_elements(row: MapRow, at: u32, f4: u32, of_softmax: f32) -> vec4<f32> {
    let of_feature = gradients(row, at, f4);
    if (row.map == SOFTMAX) { return row.gain * unscaled(row, f4) * (of_feature - of_softmax); }
    return known(slopes(row, f4) * of_feature, f4);
}

// By the row's features, of all heads that read it.
fn gradients(row: MapRow, at: u32, f4: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    if (row.is_key) {
        for (var e = 0u; e < params.key_group; e++) {
            sum += keys[(at * params.key_group + e) * FEATURE_VEC4 + f4];
        }
    } else {
        for (var h = 0u; h < params.query_group; h++) {
            sum += queries[(at * params.query_group + h) * (FEATURE_VEC4 + 1u) + f4];
        }
    }
    return known(sum, f4);
}

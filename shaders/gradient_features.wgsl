// The features of all rows, and the states, for the backward pass.
//
//     k'_i = phi(k_i)     q'_i = phi(q_i)
//
// reads   q [T,H,K]  k [T,G,K]  projections  initial_state [N,state]  of_final_state [N,state]
// writes  keys [T,E,FEATURE_VEC4]  queries [T,max(H,E),FEATURE_VEC4 + 1]  states
// grid    a thread a row or an element of a state, folded
// memory  none

import constants::{SCAN_THREADS};
import gradient/argument::{row_index, rows_len};
import gradient/map::{FEATURE_VEC4, features_of, keys, map_row, queries};
import gradient/states::{states, states_len};
import params::{workgroup_index};

@group(0) @binding(29) var<storage, read_write> initial_state: array<f32>;
@group(0) @binding(30) var<storage, read_write> of_final_state: array<f32>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_features(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let rows = rows_len();
    if (i < rows) {
        let row = map_row(row_index(i));
        if (row.is_key) {
            for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) {
                keys[row.at * FEATURE_VEC4 + f4] = features_of(row, f4);
            }
        } else {
            let begin = row.at * (FEATURE_VEC4 + 1u);
            for (var f4 = 0u; f4 < FEATURE_VEC4; f4++) { queries[begin + f4] = features_of(row, f4); }
            queries[begin + FEATURE_VEC4] = vec4<f32>(row.gain);
        }
    } else if (i - rows < states_len()) {
        states[i - rows] = initial_state[i - rows];
        states[states_len() + i - rows] = of_final_state[i - rows];
    }
}

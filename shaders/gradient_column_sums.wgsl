// The sums over value blocks of the gradients by features, gates and nu, in the order of the
// blocks. They take the places of the features and gates, which nobody needs any more, and of the
// gradient by nu.
//
// updates keys [1 + blocks,T,E,FEATURE_VEC4]  queries [1 + blocks,T,max(H,E),FEATURE_VEC4 + 1]
//         gates [1 + blocks,T,E,GATE_ROW]  states
// grid    a thread a vec4 of features or an element of the others, folded
// memory  none

import constants::{FEATURE_DIM, GATE_ROW, HAS_BETA, HAS_DECAY, NORMALIZE, SCAN_THREADS};
import gradient/states::{MU_LEN, STATE_LEN, block_memories, block_memory, states, states_len};
import params::{params, workgroup_index};

@group(0) @binding(11) var<storage, read_write> gates: array<f32>;
@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;
@group(0) @binding(19) var<storage, read_write> queries: array<vec4<f32>>;

const FEATURE_VEC4: u32 = (FEATURE_DIM + 3u) / 4u;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_column_sums(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let of_keys = params.total_tokens * params.value_heads * FEATURE_VEC4;
    if (i < of_keys) {
        var sum = vec4<f32>(0.0);
        for (var block = 1u; block <= params.value_blocks; block++) { sum += keys[block * of_keys + i]; }
        keys[i] = sum;
        return;
    }
    i -= of_keys;
    let rows = params.total_tokens * params.output_heads;
    if (i < rows * FEATURE_VEC4) {
        // The last of a row is the gain, which stays.
        let stride = FEATURE_VEC4 + 1u;
        let at = i / FEATURE_VEC4 * stride + i % FEATURE_VEC4;
        var sum = vec4<f32>(0.0);
        for (var block = 1u; block <= params.value_blocks; block++) {
            sum += queries[block * rows * stride + at];
        }
        queries[at] = sum;
        return;
    }
    i -= rows * FEATURE_VEC4;
    if (HAS_DECAY || HAS_BETA) {
        let of_gates = params.total_tokens * params.value_heads * GATE_ROW;
        if (i < of_gates) {
            var sum = 0.0;
            for (var block = 1u; block <= params.value_blocks; block++) {
                sum += gates[block * of_gates + i];
            }
            gates[i] = sum;
            return;
        }
        i -= of_gates;
    }
    let heads = params.sequences * params.value_heads;
    if (NORMALIZE && i < heads * FEATURE_DIM) { add_of_nu(i / FEATURE_DIM, i % FEATURE_DIM); }
}

// To feature f of the gradient by nu of a value head of a sequence, which has that of value block
// 0.
fn add_of_nu(head: u32, f: u32) {
    let n = head / params.value_heads;
    let e = head % params.value_heads;
    let state = n * params.value_heads * STATE_LEN;
    let at = states_len() + state + params.value_heads * MU_LEN + e * FEATURE_DIM + f;
    var sum = states[at];
    for (var block = 1u; block < params.value_blocks; block++) {
        sum += states[block_memories(head) + block * block_memory() + f];
    }
    states[at] = sum;
}

// The gradients by v and by initial states, from those by w and M that the passes of sums have
// found, summed over the output heads that read a value head; with a delta rule those by v are b_t
// du_t. Between the initial state and the first M is the decay of the first token.
//
// reads   of_pass_values [T,max(H,E),PASS_VALUE_VEC4]: dw, or [T,E,PASS_VALUE_VEC4]: du
//         pass_states: the gradients by the first M
//         pass_decays and ranges [N + 1], where there are decays or betas
// writes  of_v [T,E,V]  states: gradients by initial states [N,state], behind the initial states
// grid    a thread a vec4 of a row of v or an element of a state, folded
// memory  none

import constants::{ACCESS_ELEMENTS, FEATURE_DIM, HAS_BETA, HAS_DECAY, SCAN_THREADS, VALUE_DIM};
import gates/backward_decay::{decayed, stored_decay};
import gradient/pass_decays::{betas_begin, pass_decays};
import gradient/passes::{PASS_STATE_LEN, PASS_VALUE_VEC4, gradient_state, gradients_begin, pass_states};
import gradient/states::{MU_LEN, STATE_LEN, states, states_len};
import heads::{value_begin};
import params::{params, workgroup_index};

@group(0) @binding(6) var<storage, read_write> of_pass_values: array<vec4<f32>>;
@group(0) @binding(21) var<storage, read_write> of_v: array<f32>;
@group(0) @binding(23) var<storage, read_write> ranges: array<vec2<u32>>;  // begin, end of each sequence

const VALUE_VEC4: u32 = (VALUE_DIM + 3u) / 4u;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_pass_outputs(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let values = params.total_tokens * params.value_heads * VALUE_VEC4;
    if (i < values) {
        store_values(i / VALUE_VEC4, i % VALUE_VEC4);
        return;
    }
    i -= values;
    if (i < states_len()) { states[states_len() + i] = state_gradient(i); }
}

fn store_values(row: u32, c4: u32) {
    var sum = vec4<f32>(0.0);
    if (HAS_BETA) {
        sum = pass_decays[betas_begin() + row] * of_pass_values[row * PASS_VALUE_VEC4 + c4];
    } else {
        // Output heads of a value head follow one another, as value heads of a token do.
        let first = row * params.group * PASS_VALUE_VEC4 + c4;
        for (var h = 0u; h < params.group; h++) { sum += of_pass_values[first + h * PASS_VALUE_VEC4]; }
    }
    let begin = value_begin(row / params.value_heads, row % params.value_heads) * ACCESS_ELEMENTS;
    for (var i = 4u * c4; i < min(4u * c4 + 4u, VALUE_DIM); i++) { of_v[begin + i] = sum[i % 4u]; }
}

// Element i of the states of all sequences.
fn state_gradient(i: u32) -> f32 {
    let n = i / (params.value_heads * STATE_LEN);
    let element = i % (params.value_heads * STATE_LEN);
    var e = element / MU_LEN;
    var f = element % MU_LEN / VALUE_DIM;
    var column = element % VALUE_DIM;
    if (element >= params.value_heads * MU_LEN) {
        let nu = element - params.value_heads * MU_LEN;
        e = nu / FEATURE_DIM;
        f = nu % FEATURE_DIM;
        column = VALUE_DIM;
    }
    let at = gradients_begin() + f * 4u * PASS_VALUE_VEC4 + column;
    var sum = 0.0;
    for (var h = e * params.group; h < (e + 1u) * params.group; h++) {
        sum += pass_states[at + gradient_state(n, h) * PASS_STATE_LEN];
    }
    if (!HAS_DECAY || ranges[n].x == ranges[n].y) { return sum; }
    return decayed(stored_decay(pass_decays[ranges[n].x * params.value_heads + e]), sum);
}

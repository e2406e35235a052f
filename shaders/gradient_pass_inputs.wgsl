// The values and the states that the passes of sums take, and zeros where they leave rows out.
//
//     w_j = [v_j, 1]     M = [mu | nu]                     [v_j] and [mu] where nothing is divided
//
// reads   v [T,E,V]  ranges [N]  states: initial states [N,state], gradients by final states [N,state]
// writes  pass_values [T,E,PASS_VALUE_VEC4]: w
//         pass_states: M and the gradients by the last M, and both transposed; with a delta rule zeros
//         of_pass_values [T,max(H,E),PASS_VALUE_VEC4], but for a delta rule, and of_pass_keys
//         [T,max(H,E),PASS_KEY_VEC4], with one also [T,E,PASS_KEY_VEC4] behind it: of tokens behind the last
//         sequence, which passes in reversed time do not have
// grid    a thread a vec4 of w, an element of a state or a vec4 of a row of such a token, folded
// memory  none

import constants::{FEATURE_DIM, HAS_BETA, NORMALIZE, SCAN_THREADS, VALUE_DIM};
import gradient/passes::{PASS_KEY_VEC4, PASS_STATE_LEN, PASS_VALUE_VEC4, gradient_state, gradients_begin};
import gradient/passes::{of_recalled_keys_begin, pass_states, pass_states_len, zeros_begin};
import gradient/states::{MU_LEN, STATE_LEN, states, states_len};
import heads::{value_begin};
import params::{params, workgroup_index};
import rows::{load_v};

@group(0) @binding(4) var<storage, read_write> pass_values: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> of_pass_values: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> of_pass_keys: array<vec4<f32>>;
@group(0) @binding(23) var<storage, read_write> ranges: array<vec2<u32>>;  // begin, end of each sequence

@compute @workgroup_size(SCAN_THREADS)
fn gradient_pass_inputs(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let values = params.total_tokens * params.value_heads * PASS_VALUE_VEC4;
    if (i < values) {
        let row = i / PASS_VALUE_VEC4;
        let begin = value_begin(row / params.value_heads, row % params.value_heads);
        pass_values[i] = value_columns(begin, i % PASS_VALUE_VEC4);
        return;
    }
    i -= values;
    let initial = params.sequences * params.value_heads * PASS_STATE_LEN;
    if (i < initial) {
        let head = i / PASS_STATE_LEN;
        let n = head / params.value_heads;
        let x = state_element(0u, n, head % params.value_heads, i % PASS_STATE_LEN);
        store_state(0u, params.value_heads, head, i % PASS_STATE_LEN, x);
        return;
    }
    i -= initial;
    let gradients = params.sequences * params.output_heads * PASS_STATE_LEN;
    if (i < gradients) {
        let head = i / PASS_STATE_LEN;
        let n = head / params.output_heads;
        let h = head % params.output_heads;
        // It counts once, however many output heads read the state.
        var x = 0.0;
        if (h % params.group == 0u) {
            x = state_element(states_len(), n, h / params.group, i % PASS_STATE_LEN);
        }
        store_state(gradients_begin(), params.output_heads, gradient_state(n, h), i % PASS_STATE_LEN, x);
        return;
    }
    i -= gradients;
    if (HAS_BETA) {
        if (i < initial) {
            pass_states[zeros_begin() + i] = 0.0;
            return;
        }
        i -= initial;
        clear_keys(i);
        return;
    }
    clear_row(i);
}

// Columns 4 c4 .. + 3 of w, whose v begins at `begin`.
fn value_columns(begin: u32, c4: u32) -> vec4<f32> {
    var w = vec4<f32>(0.0);
    let column = vec4<u32>(4u * c4) + vec4<u32>(0u, 1u, 2u, 3u);
    if (4u * c4 < VALUE_DIM) {
        w = select(w, load_v(begin, c4), column < vec4<u32>(VALUE_DIM));
    }
    return select(w, vec4<f32>(1.0), vec4<bool>(NORMALIZE) & (column == vec4<u32>(VALUE_DIM)));
}

// An element of M of value head e of a sequence, from the states that begin at `begin`.
fn state_element(begin: u32, n: u32, e: u32, element: u32) -> f32 {
    let f = element / (4u * PASS_VALUE_VEC4);
    let column = element % (4u * PASS_VALUE_VEC4);
    let state = begin + n * params.value_heads * STATE_LEN;
    if (f >= FEATURE_DIM) { return 0.0; }
    if (column < VALUE_DIM) { return states[state + e * MU_LEN + f * VALUE_DIM + column]; }
    if (!NORMALIZE || column > VALUE_DIM) { return 0.0; }
    return states[state + params.value_heads * MU_LEN + e * FEATURE_DIM + f];
}

// The same, to the state of a head of `heads` of a sequence and to its transpose.
fn store_state(begin: u32, heads: u32, head: u32, element: u32, x: f32) {
    let f = element / (4u * PASS_VALUE_VEC4);
    let column = element % (4u * PASS_VALUE_VEC4);
    let at = begin + head * PASS_STATE_LEN;
    pass_states[at + element] = x;
    pass_states[at + pass_states_len(heads) + column * 4u * PASS_KEY_VEC4 + f] = x;
}

fn clear_row(i: u32) {
    let used = ranges[params.sequences - 1u].y;
    let width = PASS_VALUE_VEC4 + PASS_KEY_VEC4;
    let row = used * params.output_heads + i / width;
    let c4 = i % width;
    if (row >= params.total_tokens * params.output_heads) { return; }
    if (c4 < PASS_VALUE_VEC4) {
        of_pass_values[row * PASS_VALUE_VEC4 + c4] = vec4<f32>(0.0);
    } else {
        of_pass_keys[row * PASS_KEY_VEC4 + c4 - PASS_VALUE_VEC4] = vec4<f32>(0.0);
    }
}

// The same of a delta rule: of output heads, and then of value heads.
fn clear_keys(i: u32) {
    let used = ranges[params.sequences - 1u].y;
    let tokens = params.total_tokens - used;
    let of_outputs = tokens * params.output_heads * PASS_KEY_VEC4;
    let of_keys = tokens * params.value_heads * PASS_KEY_VEC4;
    if (i < of_outputs) {
        of_pass_keys[used * params.output_heads * PASS_KEY_VEC4 + i] = vec4<f32>(0.0);
    } else if (i - of_outputs < of_keys) {
        let first = of_recalled_keys_begin() + used * params.value_heads * PASS_KEY_VEC4;
        of_pass_keys[first + i - of_outputs] = vec4<f32>(0.0);
    }
}

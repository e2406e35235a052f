// The gradients by the features of keys, summed over the output heads that read a value head. With a
// delta rule a key also reads: the state before its own token, where the pass has it read the one
// behind it. In the sums of both its own value u_t is once too often, (u_t . dr_t) k'_t each, and
//
//     u_t . dr_t = -b_t^2 (e_t . du_t) = -b_t^2 dbeta_t
//
// No digits are lost with it: dr_t is itself b_t k'_t R_t, and the term no longer than b_t |k'_t|^2
// times R_t u_t^T, which is part of the sum.
//
// reads   of_pass_keys [T,max(H,E),PASS_KEY_VEC4], with a delta rule twice [T,E,PASS_KEY_VEC4] behind it
//         gates: dbeta, and pass_decays: betas, likewise
// updates keys [T,E,PASS_KEY_VEC4]: k' to the gradients by it
// grid    a thread a vec4, folded
// memory  none

import constants::{GATE_BETA, GATE_ROW, HAS_BETA, SCAN_THREADS};
import gradient/pass_decays::{betas_begin, pass_decays};
import gradient/passes::{PASS_KEY_VEC4, of_recalled_keys_begin, of_recalling_keys_begin};
import params::{params, workgroup_index};

@group(0) @binding(7) var<storage, read_write> of_pass_keys: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> gates: array<f32>;
@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_group_sums(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let row = i / PASS_KEY_VEC4;
    if (row >= params.total_tokens * params.value_heads) { return; }
    // Output heads of a value head follow one another, as value heads of a token do.
    let first = row * params.group * PASS_KEY_VEC4 + i % PASS_KEY_VEC4;
    var sum = vec4<f32>(0.0);
    for (var h = 0u; h < params.group; h++) { sum += of_pass_keys[first + h * PASS_KEY_VEC4]; }
    if (HAS_BETA) {
        sum += of_pass_keys[of_recalled_keys_begin() + i] + of_pass_keys[of_recalling_keys_begin() + i];
        let of_beta = gates[row * GATE_ROW + GATE_BETA];
        let beta = pass_decays[betas_begin() + row];
        // Features of a token of no sequence may be anything.
        if (of_beta != 0.0) { sum += 2.0 * beta * beta * of_beta * keys[i]; }
    }
    keys[i] = sum;
}

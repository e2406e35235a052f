// The rows that the passes of sums take of a delta rule: the corrected values, which enter the state,
// and the gradients by what keys recall, which each value head's keys read as queries do.
//
//     u_t = b_t e_t      dr_t = -dv_t = -b_t du_t      dbeta_t = du_t . e_t
//
// reads   pass_decays: betas  ranges [N]
// updates pass_values [T,E,PASS_VALUE_VEC4]: e to u  of_pass_values likewise: du, to 0 in a token of no
//         sequence
// writes  output_rows [T,E,PASS_VALUE_VEC4], behind dy: dr  gates [T,E,GATE_ROW]: dbeta
// grid    a thread a row, folded
// memory  none

import constants::{GATE_BETA, GATE_ROW, SCAN_THREADS};
import gradient/pass_decays::{betas_begin, pass_decays};
import gradient/passes::{PASS_VALUE_VEC4, recalled_begin};
import gradient/sequence::{has_sequence};
import params::{params, workgroup_index};

@group(0) @binding(4) var<storage, read_write> pass_values: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> output_rows: array<vec4<f32>>;
@group(0) @binding(6) var<storage, read_write> of_pass_values: array<vec4<f32>>;
@group(0) @binding(11) var<storage, read_write> gates: array<f32>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_correction_rows(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(workgroup) * SCAN_THREADS + thread;
    if (row >= params.total_tokens * params.value_heads) { return; }
    let beta = pass_decays[betas_begin() + row];
    let is_there = has_sequence(row / params.value_heads);
    let begin = row * PASS_VALUE_VEC4;
    var of_beta = 0.0;
    for (var c4 = 0u; c4 < PASS_VALUE_VEC4; c4++) {
        var of_u = vec4<f32>(0.0);
        if (is_there) {
            let e = pass_values[begin + c4];
            of_u = of_pass_values[begin + c4];
            of_beta += dot(of_u, e);
            pass_values[begin + c4] = beta * e;
            output_rows[recalled_begin() + begin + c4] = -beta * of_u;
        } else {
            of_pass_values[begin + c4] = of_u;
        }
    }
    gates[row * GATE_ROW + GATE_BETA] = of_beta;
}

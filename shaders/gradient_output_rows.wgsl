// The gradients of the rows y_i = q'_i M_i, of which o_i is the quotient, from those of o. With c_i
// = s / (s q'_i . nu_i + eps), or s where nothing is divided,
//
//     y_i = [num, den]     o_i = c num     dy_i = [c do_i, -c (do_i . o_i)]
//
// A row whose denominator is 0 has c = 0, and no gradient.
//
// reads   queries [T,max(H,E),PASS_KEY_VEC4 + 1]: gains  of_o [T,max(H,E),V]
// updates output_rows [T,max(H,E),PASS_VALUE_VEC4]: y, where o is divided, to dy
// grid    a thread a row, folded
// memory  none

import constants::{ACCESS_ELEMENTS, NORMALIZE, SCAN_THREADS, VALUE_DIM};
import gradient/passes::{PASS_KEY_VEC4, PASS_VALUE_VEC4};
import heads::{output_begin};
import normalise::{row_factor_of};
import params::{params, workgroup_index};

@group(0) @binding(5) var<storage, read_write> output_rows: array<vec4<f32>>;
@group(0) @binding(19) var<storage, read_write> queries: array<vec4<f32>>;
@group(0) @binding(20) var<storage, read_write> of_o: array<f32>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_output_rows(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = workgroup_index(workgroup) * SCAN_THREADS + thread;
    if (row >= params.total_tokens * params.output_heads) { return; }
    let begin = output_begin(row / params.output_heads, row % params.output_heads) * ACCESS_ELEMENTS;
    let y = row * PASS_VALUE_VEC4;
    var weight = 0.0;
    if (NORMALIZE) { weight = output_rows[y + VALUE_DIM / 4u][VALUE_DIM % 4u]; }
    let c = row_factor_of(weight, queries[(row + 1u) * (PASS_KEY_VEC4 + 1u) - 1u].x);
    // do . o, which the denominator takes away. Its column is the last one.
    var taken = 0.0;
    for (var c4 = 0u; c4 < PASS_VALUE_VEC4; c4++) {
        var dy = c * output_columns(begin, c4);
        if (NORMALIZE) {
            taken += dot(dy, output_rows[y + c4]);
            if (c4 == VALUE_DIM / 4u) { dy[VALUE_DIM % 4u] = -c * taken; }
        }
        output_rows[y + c4] = dy;
    }
}

// Columns 4 c4 .. + 3 of a row of do, 0 beyond V.
fn output_columns(begin: u32, c4: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var i = 4u * c4; i < min(4u * c4 + 4u, VALUE_DIM); i++) { x[i % 4u] = of_o[begin + i]; }
    return x;
}

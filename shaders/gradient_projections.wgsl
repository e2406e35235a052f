// The projections of all rows of q and k, for the backward pass of maps with weights, and the
// norms.
//
//     y = W x + b
//
// reads   q [T,H,K]  k [T,G,K]  weights
// writes  projections [T,E + max(H,E),PROJECTION_ROW]
// grid    a thread four projections of a row, folded
// memory  none

import constants::{ROOT_SCALE, SCAN_THREADS};
import gradient/argument::{Elements, PROJECTION_ROW, ROW_VEC4, elements, normalised_elements, projections};
import gradient/argument::{row_index, rows_len, squared_norm, weight_vec4};
import gradient/weights::{weights, weights_begin};
import params::{workgroup_index};

@compute @workgroup_size(SCAN_THREADS)
fn gradient_projections(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    if (i / PROJECTION_ROW >= rows_len()) { return; }
    let row = row_index(i / PROJECTION_ROW);
    let x = normalised_elements(row);
    let p4 = i % PROJECTION_ROW;
    let stride = weight_vec4(row.is_key);
    if (p4 + 1u == PROJECTION_ROW) {
        let half_norm = 0.5 * squared_norm(x) * ROOT_SCALE * ROOT_SCALE;
        projections[i] = vec4<f32>(x.inverse_norm, half_norm, 0.0, 0.0);
    } else if (p4 < stride) {
        projections[i] = project(x, weights_begin(row) + p4, stride);
    }
}

// Four projections, whose weights begin at `first`.
fn project(x: Elements, first: u32, stride: u32) -> vec4<f32> {
    var at = first;
    var sum = weights[at + 4u * ROW_VEC4 * stride];
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) {
        let e = elements(x, x4);
        sum += e.x * weights[at] + e.y * weights[at + stride]
            + e.z * weights[at + 2u * stride] + e.w * weights[at + 3u * stride];
        at += 4u * stride;
    }
    return sum;
}

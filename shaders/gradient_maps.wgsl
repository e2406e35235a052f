// Gradients by projections, from those by features, where a map has weights; of a map that has none
// by its rows. They take the places of the projections.
//
// reads   q [T,H,K]  k [T,G,K]  keys [T,E,FEATURE_VEC4]  queries [T,max(H,E),FEATURE_VEC4 + 1]
// updates projections [T,E + max(H,E),PROJECTION_ROW]
// grid    a thread a row, folded
// memory  none

import constants::{FAVOR, FAVOR_HYPERBOLIC, PRODUCT, ROOT_SCALE, SCAN_THREADS};
import gradient/argument::{PROJECTION_ROW, argument_vec4, projections, row_index, rows_len};
import gradient/map::{FEATURE_VEC4, map_row};
import gradient/slopes::{by_argument, row_gradients};
import params::{workgroup_index};

@compute @workgroup_size(SCAN_THREADS)
fn gradient_maps(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    if (i >= rows_len()) { return; }
    let row = map_row(row_index(i));
    let by = row_gradients(row, 1u);
    let is_product = row.map == PRODUCT;
    for (var a4 = 0u; a4 < select(argument_vec4(row.is_key), FEATURE_VEC4, is_product); a4++) {
        let da = by_argument(row, by, a4);
        // Each factor is read for the gradient by the other.
        if (is_product) {
            projections[row.projections + a4 + FEATURE_VEC4] = by_argument(row, by, a4 + FEATURE_VEC4);
        }
        projections[row.projections + a4] = da;
    }
    if ((row.map == FAVOR || row.map == FAVOR_HYPERBOLIC) && !by.is_zero) {
        let norms = row.projections + PROJECTION_ROW - 1u;
        projections[norms].z = -ROOT_SCALE * ROOT_SCALE * by.sums.x;
    }
}

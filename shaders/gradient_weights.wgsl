// Gradients by the weights of the maps, summed over the tokens of a piece, of each value head's
// keys and of each output head's queries.
//
//     dW = sum of dy x^T     db = sum of dy
//
// reads   q [T,H,K]  k [T,G,K]  projections [T,E + max(H,E),PROJECTION_ROW]: gradients by them, and norms
// writes  partials [ceil(T / chunk_len),PARTIAL_VEC4]: of E heads of keys, then of max(H,E) of queries, each
//         laid out as the weights of a head
// grid    a thread four elements of x, or 1, by four projections, of a head and a piece, folded
// memory  none

import constants::{KEY_WEIGHT_VEC4, QUERY_WEIGHT_VEC4, SCAN_THREADS};
import gradient/argument::{ROW_VEC4, RowIndex, elements, elements_of, projection_row};
import gradient/argument::{projections, row_norms, weight_vec4};
import gradient/partials::{partials, partials_begin, pieces};
import params::{params, workgroup_index};

// Threads of a head.
const KEY_TILES: u32 = (ROW_VEC4 + 1u) * KEY_WEIGHT_VEC4;
const QUERY_TILES: u32 = (ROW_VEC4 + 1u) * QUERY_WEIGHT_VEC4;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_weights(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let of_keys = params.value_heads * KEY_TILES;
    let tiles = of_keys + params.output_heads * QUERY_TILES;
    let piece = i / tiles;
    if (piece >= pieces()) { return; }
    let tile = i % tiles;
    if (tile < of_keys) {
        sum_tile(true, piece, tile / max(KEY_TILES, 1u), tile % max(KEY_TILES, 1u));
    } else {
        let at = tile - of_keys;
        sum_tile(false, piece, at / max(QUERY_TILES, 1u), at % max(QUERY_TILES, 1u));
    }
}

fn sum_tile(is_key: bool, piece: u32, head: u32, tile: u32) {
    let stride = weight_vec4(is_key);
    let x4 = tile / stride;
    let p4 = tile % stride;
    var sums = array<vec4<f32>, 4>();
    let first = piece * params.chunk_len;
    for (var t = first; t < min(first + params.chunk_len, params.total_tokens); t++) {
        let row = RowIndex(is_key, t, head);
        let dy = projections[projection_row(row) + p4];
        var x = vec4<f32>(1.0, 0.0, 0.0, 0.0);
        if (x4 < ROW_VEC4) { x = elements(elements_of(row, row_norms(row).x), x4); }
        // Padding has no gradient, whatever it holds.
        x = select(x, vec4<f32>(0.0), all(dy == vec4<f32>(0.0)));
        sums[0] += x.x * dy;
        sums[1] += x.y * dy;
        sums[2] += x.z * dy;
        sums[3] += x.w * dy;
    }
    let begin = partials_begin(is_key, piece, head) + 4u * x4 * stride + p4;
    partials[begin] = sums[0];
    if (x4 == ROW_VEC4) { return; }
    partials[begin + stride] = sums[1];
    partials[begin + 2u * stride] = sums[2];
    partials[begin + 3u * stride] = sums[3];
}

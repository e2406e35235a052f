// The outputs, from the partial sums of the feature blocks:
//
//     o = (s sum of q' mu) / (s sum of q' . nu + eps)
//
// Each block scaled its features of a query by a row scale of its own, so the blocks are rescaled
// to the largest shift and the smallest scale first: no factor is above 1.
//
// reads   partials [feature blocks, T max(H,E), V/4 and 1]
// writes  o [T,max(H,E),V]
// grid    a thread for each of T x max(H,E) x V/4, folded
// memory  none

import constants::{FEATURE_BLOCKS, HAS_TABLE, QUERY_MAP, SCALE, SCALES_QUERIES, SCAN_THREADS};
import heads::{output_begin};
import map/stabiliser::{LOWEST, RowScale, rescaling, row_gain};
import normalise::{row_factor_of};
import output/partial_rows::{PARTIAL_ROW_VEC4, VALUE_VEC4, partials};
import params::{params, workgroup_index};
import rows::{store_o};
import sequence_entry::{sequence_entry, sequence_of_token};

@compute @workgroup_size(SCAN_THREADS)
fn output_sum(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let c4 = i % VALUE_VEC4;
    let row = i / VALUE_VEC4;
    let t = row / params.output_heads;
    if (t >= params.total_tokens) { return; }
    let begin = output_begin(t, row % params.output_heads);
    if (!has_sequence(t)) {
        store_o(begin, c4, vec4<f32>(0.0));
        return;
    }
    let scale = common_scale(row);
    var sum = vec4<f32>(0.0);
    var weight = 0.0;
    for (var block = 0u; block < FEATURE_BLOCKS; block++) {
        let at = partial_row(block, row);
        if (SCALES_QUERIES) {
            let of_block = partials[at + VALUE_VEC4];
            let rescale = rescaling(QUERY_MAP, RowScale(of_block.y, of_block.z), scale);
            sum += rescale * partials[at + c4];
            weight += rescale * of_block.x;
        } else {
            sum += partials[at + c4];
        }
    }
    var factor = SCALE;
    if (SCALES_QUERIES) { factor = row_factor_of(weight, row_gain(QUERY_MAP, scale)); }
    store_o(begin, c4, sum * factor);
}

fn partial_row(block: u32, row: u32) -> u32 {
    return (block * params.total_tokens * params.output_heads + row) * PARTIAL_ROW_VEC4;
}

// The largest shift and the smallest scale of a row's blocks.
fn common_scale(row: u32) -> RowScale {
    var scale = RowScale(LOWEST, 3.4e38);
    if (SCALES_QUERIES) {
        for (var block = 0u; block < FEATURE_BLOCKS; block++) {
            let of_block = partials[partial_row(block, row) + VALUE_VEC4];
            scale.shift = max(scale.shift, of_block.y);
            scale.scale = min(scale.scale, of_block.z);
        }
    }
    return scale;
}

fn has_sequence(t: u32) -> bool {
    if (!HAS_TABLE) { return true; }
    let entry = sequence_entry(sequence_of_token(t));
    return entry.is_active != 0u && t < entry.end;
}

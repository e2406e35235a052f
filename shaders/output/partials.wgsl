// implements: output
//
// A work item that has a block of the features stores partial sums of its rows, which output_sum
// adds up.

import constants::{SCALES_QUERIES, THREADS};
import chunk/weights::{row_weight};
import lane::{Lane};
import output/partial_rows::{PARTIAL_ROW_VEC4, VALUE_VEC4, partials};
import params::{params};
import row_map::{query_scale};
import work_item::{Chunk, WorkItem, chunk_output_row};

fn partial_row(item: WorkItem, chunk: Chunk, row: u32) -> u32 {
    let rows = params.total_tokens * params.output_heads;
    return (item.feature_block * rows + chunk_output_row(item, chunk, row)) * PARTIAL_ROW_VEC4;
}

fn store_weights(item: WorkItem, chunk: Chunk, lane: Lane) {
    if (!SCALES_QUERIES || item.value_block != 0u) { return; }
    for (var row = lane.thread; row < chunk.tokens * item.heads; row += THREADS) {
        let s = query_scale(row);
        let sums = vec4<f32>(row_weight(row), s.shift, s.scale, 0.0);
        partials[partial_row(item, chunk, row) + VALUE_VEC4] = sums;
    }
}

fn write_output(item: WorkItem, chunk: Chunk, row: u32, c4: u32, sum: vec4<f32>) {
    if (c4 < VALUE_VEC4) { partials[partial_row(item, chunk, row) + c4] = sum; }
}

// output_sum writes them.
fn store_zero(begin: u32, c4: u32) {}

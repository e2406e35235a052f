// implements: output
//
// A work item that has all features of its rows has their outputs.

import constants::{CHUNK_QUERIES, SCALE, SCALES_QUERIES};
import normalise::{row_factor_of};
import row_map::{query_gain};
import rows::{store_o};
import work_item::{Chunk, WorkItem, chunk_output_begin};

var<workgroup> row_factor: array<f32, CHUNK_QUERIES>;  // of each row of q' mu

fn store_weight(item: WorkItem, chunk: Chunk, row: u32, weight: f32) {
    row_factor[row] = row_factor_of(weight, query_gain(row));
}

fn write_output(item: WorkItem, chunk: Chunk, row: u32, c4: u32, sum: vec4<f32>) {
    var factor = SCALE;
    if (SCALES_QUERIES) { factor = row_factor[row]; }
    store_o(chunk_output_begin(item, chunk, row), c4, sum * factor);
}

fn store_zero(begin: u32, c4: u32) { store_o(begin, c4, vec4<f32>(0.0)); }

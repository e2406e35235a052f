// implements: output
//
// A work item that has all features of its rows has their outputs.

import constants::{SCALE, SCALES_QUERIES};
import chunk/weights::{row_weight};
import lane::{Lane};
import normalise::{row_factor_of};
import row_map::{query_gain};
import rows::{store_o};
import work_item::{Chunk, WorkItem, chunk_output_begin};

fn write_output(item: WorkItem, chunk: Chunk, row: u32, c4: u32, sum: vec4<f32>) {
    var factor = SCALE;
    // Each thread adds up the row's products again, which takes less time than to wait for one that
    // does.
    if (SCALES_QUERIES) { factor = row_factor_of(row_weight(row), query_gain(row)); }
    store_o(chunk_output_begin(item, chunk, row), c4, sum * factor);
}

// An output has been divided by its weight.
fn store_weights(item: WorkItem, chunk: Chunk, lane: Lane) {}

fn store_zero(begin: u32, c4: u32) { store_o(begin, c4, vec4<f32>(0.0)); }

// implements: lane_sums
//
// LANES threads share a row of the state, each with other features of it, and are neighbours in a
// subgroup: all of them get the sum of a query row. Each keeps its share of the rows and writes
// them behind the chunk.

import constants::{BLOCK_COLUMNS_VEC4, COLUMNS_VEC4, COLUMN_THREADS, LANES, LANE_ROWS};
import chunk/workgroup::{values};
import lane::{Lane, sum_over_lanes};
import output::{write_output};
import work_item::{Chunk, WorkItem};

const ROW_SUMS_LEN: u32 = LANE_ROWS * COLUMNS_VEC4;

struct RowSums { rows: array<vec4<f32>, ROW_SUMS_LEN> }  // [LANE_ROWS, COLUMNS/4]: row n LANES + lane.index

fn add_part(
    sums: ptr<function, RowSums>,
    item: WorkItem,
    chunk: Chunk,
    row: u32,
    c: u32,
    part: vec4<f32>,
    lane: Lane,
) {
    let sum = sum_over_lanes(part, lane);
    // Registers have no index.
    @unroll
    for (var n = 0u; n < LANE_ROWS; n++) {
        let at = n * COLUMNS_VEC4 + c;
        (*sums).rows[at] = select((*sums).rows[at], sum, row == n * LANES + lane.index);
    }
}

fn write_sums(sums: ptr<function, RowSums>, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll
    for (var n = 0u; n < LANE_ROWS; n++) {
        let row = n * LANES + lane.index;
        if (row < chunk.tokens * item.heads) {
            @unroll
            for (var c = 0u; c < COLUMNS_VEC4; c++) {
                let c4 = lane.c4 + c * COLUMN_THREADS;
                let sum = (*sums).rows[n * COLUMNS_VEC4 + c];
                write_output(item, chunk, row, item.value_block * BLOCK_COLUMNS_VEC4 + c4, sum);
            }
        }
    }
}

// The value of token i loses what its key recalls.
fn store_recalled(i: u32, c4: u32, part: vec4<f32>, lane: Lane) {
    let recalled = sum_over_lanes(part, lane);
    if (lane.index == i % LANES) { values[i * BLOCK_COLUMNS_VEC4 + c4] -= recalled; }
}

fn without_recalled(u: vec4<f32>, i: u32, c4: u32) -> vec4<f32> { return u; }

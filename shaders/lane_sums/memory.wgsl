// implements: lane_sums
//
// LANES threads share a row of the state, each with other features of it: with more than one, their
// partial sums are added up in workgroup memory.
//
// memory  vec4s: with several lanes queries LANES V/4 partial sums

import constants::{BLOCK_COLUMNS_VEC4, CHUNK_QUERIES, COLUMN_THREADS, LANES, OUTPUT_SHARE, THREADS};
import lane::{Lane};
import output::{write_output};
import work_item::{Chunk, WorkItem};

const PARTIAL_LEN: u32 = select(1u, CHUNK_QUERIES * LANES * BLOCK_COLUMNS_VEC4, LANES > 1u);

var<workgroup> partial_sums: array<vec4<f32>, PARTIAL_LEN>;  // of phi(q) mu: [queries, LANES, columns/4]

// All of it is in workgroup memory.
struct RowSums { unused: u32 }

// This thread's sum for a query row, which is the whole sum where one lane has all features.
fn add_part(
    sums: ptr<function, RowSums>,
    item: WorkItem,
    chunk: Chunk,
    row: u32,
    c: u32,
    part: vec4<f32>,
    lane: Lane,
) {
    let c4 = lane.c4 + c * COLUMN_THREADS;
    if (LANES == 1u) {
        write_output(item, chunk, row, item.value_block * BLOCK_COLUMNS_VEC4 + c4, part);
    } else {
        partial_sums[partial_sum(row, lane.thread / COLUMN_THREADS, c4)] = part;
    }
}

// Adds up the lanes' partial sums.
fn write_sums(sums: ptr<function, RowSums>, item: WorkItem, chunk: Chunk, lane: Lane) {
    if (LANES == 1u) { return; }
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < OUTPUT_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        let row = i / BLOCK_COLUMNS_VEC4;
        let c4 = i % BLOCK_COLUMNS_VEC4;
        if (row < chunk.tokens * item.heads) {
            var sum = vec4<f32>(0.0);
            for (var other = 0u; other < LANES; other++) { sum += partial_sums[partial_sum(row, other, c4)]; }
            write_output(item, chunk, row, item.value_block * BLOCK_COLUMNS_VEC4 + c4, sum);
        }
    }
}

// This lane's part of what the key of token i recalls.
fn store_recalled(i: u32, c4: u32, part: vec4<f32>, lane: Lane) {
    partial_sums[partial_sum(i, lane.thread / COLUMN_THREADS, c4)] = part;
}

// A value less what its key recalls.
fn without_recalled(value: vec4<f32>, i: u32, c4: u32) -> vec4<f32> {
    var u = value;
    for (var other = 0u; other < LANES; other++) { u -= partial_sums[partial_sum(i, other, c4)]; }
    return u;
}

fn partial_sum(row: u32, lane_index: u32, c4: u32) -> u32 {
    return (row * LANES + lane_index) * BLOCK_COLUMNS_VEC4 + c4;
}

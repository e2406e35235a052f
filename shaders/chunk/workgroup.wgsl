// implements: chunk
//
// A chunk of tokens in workgroup memory, from which all threads of a work item read. LANES threads share
// a row of the state, each with other features of it, and lane_sums/ adds up their parts of o.
//
// memory  vec4s: (tokens + queries) F/4 features, tokens V/4 values, F/4 of nu; floats: queries F/4 products
//         with nu; see lane_sums/

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, CHECKPOINTS, CHUNK_QUERIES, CHUNK_TOKENS, COLUMNS_VEC4};
import constants::{COLUMN_THREADS, HAS_TABLE, HAS_VALUES, NORMALIZE, ROWS_VEC4, SCALES_QUERIES, THREADS};
import chunk/features::{features, query_features};
import gates::{decay_nu};
import heads::{gate_row, output_begin, value_begin};
import lane::{Lane};
import lane_sums::{RowSums, add_part, wait_for_weights, write_sums};
import output::{store_weight, store_zero};
import params::{workgroup_index};
import row_map::{clear_row_max, load_keys};
import rows::{load_v};
import sequence_entry::{next_checkpoint};
import states/offset::{StateOffset};
import states::{load_nu, store_nu};
import tile::{Key, Value};
import work_item::{Chunk, WorkItem, work_item, work_item_in_table};

const VALUE_CHUNK_LEN: u32 = CHUNK_TOKENS * BLOCK_COLUMNS_VEC4;
// A variable that nothing uses takes no memory.
const NU_LEN: u32 = select(1u, BLOCK_VEC4, NORMALIZE);
const PRODUCT_LEN: u32 = select(1u, CHUNK_QUERIES * BLOCK_VEC4, NORMALIZE);

var<workgroup> values: array<vec4<f32>, VALUE_CHUNK_LEN>;  // [tokens, columns/4]
var<workgroup> nu: array<vec4<f32>, NU_LEN>;               // nu up to the chunk: [F/4]
var<workgroup> products: array<f32, PRODUCT_LEN>;          // of phi(q) and nu: [queries, F/4]
var<workgroup> shared_item: WorkItem;
var<workgroup> shared_stop: u32;

// All else is in workgroup memory.
alias ChunkState = RowSums;

// The same for all threads of a workgroup, and seen to be: barriers stand where the item decides.
fn item_of(workgroup: vec3<u32>, thread: u32, head_blocks: u32, segments: u32) -> WorkItem {
    let index = workgroup_index(workgroup);
    if (HAS_TABLE) {
        if (thread == 0u) { shared_item = work_item_in_table(index, head_blocks); }
        return workgroupUniformLoad(&shared_item);
    }
    return work_item(index, head_blocks, segments);
}

// The next token behind t at which the state is stored; item.end where there is none.
fn next_stop(item: WorkItem, t: u32, thread: u32) -> u32 {
    if (CHECKPOINTS == 0u) { return item.end; }
    if (thread == 0u) { shared_stop = next_checkpoint(item.sequence, t, item.end); }
    return workgroupUniformLoad(&shared_stop);
}

fn thread_of_item(thread: u32) -> u32 { return thread; }

fn load_chunk_nu(state: ptr<function, ChunkState>, at: StateOffset, item: WorkItem, lane: Lane) {
    if (SCALES_QUERIES) { clear_row_max(lane); }
    if (!NORMALIZE) { return; }
    for (var f4 = lane.thread; f4 < BLOCK_VEC4; f4 += THREADS) {
        nu[f4] = load_nu(at, item.feature_block * BLOCK_VEC4 + f4);
    }
}

fn clear_chunk_nu(state: ptr<function, ChunkState>, lane: Lane) {
    if (!NORMALIZE) { return; }
    for (var f4 = lane.thread; f4 < BLOCK_VEC4; f4 += THREADS) { nu[f4] = vec4<f32>(0.0); }
}

fn store_chunk_nu(state: ptr<function, ChunkState>, at: StateOffset, item: WorkItem, chunk: Chunk, lane: Lane) {
    for (var f4 = lane.thread; f4 < BLOCK_VEC4; f4 += THREADS) {
        store_nu(at, item.feature_block * BLOCK_VEC4 + f4, nu[f4]);
    }
}

fn load_tokens(item: WorkItem, chunk: Chunk, lane: Lane) {
    // The chunk before has been read.
    workgroupBarrier();
    load_keys(item, chunk, lane);
    for (var i = lane.thread; i < chunk.tokens * BLOCK_COLUMNS_VEC4; i += THREADS) {
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        values[i] = vec4<f32>(0.0);
        if (HAS_VALUES) { values[i] = load_v(value_begin(chunk.first + i / BLOCK_COLUMNS_VEC4, item.head), c4); }
    }
}

// The keys enter nu.
fn add_keys(item: WorkItem, chunk: Chunk, lane: Lane) {
    if (!NORMALIZE) { return; }
    for (var f4 = lane.thread; f4 < BLOCK_VEC4; f4 += THREADS) {
        var sum = nu[f4];
        for (var i = 0u; i < chunk.tokens; i++) {
            sum = decayed_nu(sum, item, chunk, i, f4) + features[i * BLOCK_VEC4 + f4];
        }
        nu[f4] = sum;
    }
}

// The keys enter nu one after the other, and each query row gets its weight phi(q_i) . nu_i.
fn weigh_rows(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {
    if (!SCALES_QUERIES) { return; }
    if (NORMALIZE) {
        for (var f4 = lane.thread; f4 < BLOCK_VEC4; f4 += THREADS) {
            var sum = nu[f4];
            for (var i = 0u; i < chunk.tokens; i++) {
                sum = decayed_nu(sum, item, chunk, i, f4) + features[i * BLOCK_VEC4 + f4];
                for (var row = i * item.heads; row < (i + 1u) * item.heads; row++) {
                    products[row * BLOCK_VEC4 + f4] = dot(features[query_features(row) + f4], sum);
                }
            }
            nu[f4] = sum;
        }
        workgroupBarrier();
    }
    for (var row = lane.thread; row < chunk.tokens * item.heads; row += THREADS) {
        var weight = 0.0;
        if (NORMALIZE) {
            for (var f4 = 0u; f4 < BLOCK_VEC4; f4++) { weight += products[row * BLOCK_VEC4 + f4]; }
        }
        store_weight(item, chunk, row, weight);
    }
    wait_for_weights();
}

fn decayed_nu(nu: vec4<f32>, item: WorkItem, chunk: Chunk, i: u32, f4: u32) -> vec4<f32> {
    return decay_nu(nu, gate_row(chunk.first + i, item.head), item.feature_block * BLOCK_VEC4 + f4);
}

fn key(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Key {
    return features_at(i * BLOCK_VEC4 + lane.f4);
}

fn query(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, i: u32, h: u32, lane: Lane) -> Key {
    return features_at(query_features(i * item.heads + h) + lane.f4);
}

fn features_at(at: u32) -> Key {
    var key = Key();
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { key[r] = features[at + r]; }
    return key;
}

fn value(item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Value {
    var value = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        value[c] = values[i * BLOCK_COLUMNS_VEC4 + lane.c4 + c * COLUMN_THREADS];
    }
    return value;
}

// This thread's part of the sum for a query row.
fn store_output(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, row: u32, o: Value, lane: Lane) {
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        add_part(state, item, chunk, row, c, o[c], lane);
    }
}

fn reduce_outputs(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {
    write_sums(state, item, chunk, lane);
}

// Rows of o that belong to no sequence are zero.
fn zero_rows(item: WorkItem, lane: Lane) {
    let len = (item.end - item.begin) * item.heads * BLOCK_COLUMNS_VEC4;
    for (var i = lane.thread; i < len; i += THREADS) {
        let row = i / BLOCK_COLUMNS_VEC4;
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        let t = item.begin + row / item.heads;
        store_zero(output_begin(t, item.first_head + row % item.heads), c4);
    }
}

// implements: chunk
//
// A chunk of tokens in workgroup memory, from which all threads of a work item read. Each thread
// loads its share of the next chunk's rows before it works on this one, so that they arrive
// meanwhile. LANES threads share a row of the state, each with other features of it, and lane_sums/
// adds up their parts of o.
//
// A thread's share of so many elements is thread, thread + THREADS, ..: at most a number that is
// known, so that its loop is written out.
//
// memory  vec4s: (tokens + queries) F/4 features, tokens V/4 values, F/4 of nu; floats: queries F/4 products
//         with nu; see lane_sums/

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, CHECKPOINTS, CHUNK_TOKENS, COLUMNS_VEC4};
import constants::{COLUMN_THREADS, HAS_TABLE, HAS_VALUES, NORMALIZE, NU_SHARE, PRODUCT_SHARE, ROWS_VEC4};
import constants::{SCALES_QUERIES, THREADS, VALUE_SHARE};
import chunk/features::{features, query_features};
import chunk/loaded_rows::{LoadedRows};
import chunk/weights::{PRODUCT_ROW, products};
import gates::{decay_nu};
import heads::{gate_row, output_begin, value_begin};
import lane::{Lane};
import lane_sums::{RowSums, add_part, write_sums};
import output::{store_weights, store_zero};
import params::{workgroup_index};
import row_map::{clear_row_max, load_keys, share_rows};
import rows::{load_v};
import sequence_entry::{next_checkpoint};
import states/offset::{StateOffset};
import states::{load_nu, store_nu};
import tile::{Key, Value};
import work_item::{Chunk, WorkItem, row_head, row_token, work_item, work_item_in_table};

const VALUE_CHUNK_LEN: u32 = CHUNK_TOKENS * BLOCK_COLUMNS_VEC4;
// A variable that nothing uses takes no memory.
const NU_LEN: u32 = select(1u, BLOCK_VEC4, NORMALIZE);

var<workgroup> values: array<vec4<f32>, VALUE_CHUNK_LEN>;  // [tokens, columns/4]
var<workgroup> nu: array<vec4<f32>, NU_LEN>;               // nu up to the chunk: [F/4]
var<workgroup> shared_item: WorkItem;
var<workgroup> shared_stop: u32;

// All else is in workgroup memory.
alias ChunkState = RowSums;
alias ChunkRows = LoadedRows;

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
    if (SCALES_QUERIES) {
        clear_row_max(lane);
        workgroupBarrier();
    }
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

// This thread's share of the keys and values of a chunk.
fn load_chunk(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, lane: Lane) {
    load_keys(rows, item, chunk, lane);
    if (!HAS_VALUES) { return; }
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < VALUE_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * BLOCK_COLUMNS_VEC4) {
            let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
            (*rows).values[n] = load_v(value_begin(chunk.first + i / BLOCK_COLUMNS_VEC4, item.head), c4);
        }
    }
}

// Those rows, of which each token has so many queries, to workgroup memory. All threads have read
// the chunk before, and see this one.
fn share_chunk(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < VALUE_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * BLOCK_COLUMNS_VEC4) { values[i] = (*rows).values[n]; }
    }
    share_rows(rows, item, chunk, heads, lane);
}

// The next chunk may be shared.
fn wait_for_readers() { workgroupBarrier(); }

// The keys enter nu.
fn add_keys(item: WorkItem, chunk: Chunk, lane: Lane) {
    if (!NORMALIZE) { return; }
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < NU_SHARE; n++) {
        let f4 = lane.thread + n * THREADS;
        if (f4 < BLOCK_VEC4) { nu[f4] = nu_with_keys(item, chunk, chunk.tokens, f4); }
    }
}

// nu after the first tokens of a chunk.
fn nu_with_keys(item: WorkItem, chunk: Chunk, tokens: u32, f4: u32) -> vec4<f32> {
    var sum = nu[f4];
    for (var i = 0u; i < tokens; i++) {
        let row = gate_row(chunk.first + i, item.head);
        let decayed = decay_nu(sum, row, item.feature_block * BLOCK_VEC4 + f4);
        sum = decayed + features[i * BLOCK_VEC4 + f4];
    }
    return sum;
}

// Each query row gets its products with nu_i, whose sum is its weight phi(q_i) . nu_i. A thread
// adds up nu_i for four features of a row, which is more to add up than from token to token, and
// nothing to wait for.
fn weigh_rows(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {
    if (!SCALES_QUERIES) { return; }
    var sums: array<vec4<f32>, PRODUCT_SHARE>;
    if (NORMALIZE) {
        @unroll(SHARE_UNROLL)
        for (var n = 0u; n < PRODUCT_SHARE; n++) {
            let i = lane.thread + n * THREADS;
            let row = i / BLOCK_VEC4;
            let f4 = i % BLOCK_VEC4;
            if (row < chunk.tokens * item.heads) {
                sums[n] = nu_with_keys(item, chunk, row_token(item, row) + 1u, f4);
                let product = dot(features[query_features(row) + f4], sums[n]);
                products[row * PRODUCT_ROW + f4] = product;
            }
        }
    }
    workgroupBarrier();
    if (NORMALIZE) {
        // That of the last token is nu up to the next chunk.
        let last = (max(chunk.tokens, 1u) - 1u) * item.heads;
        @unroll(SHARE_UNROLL)
        for (var n = 0u; n < PRODUCT_SHARE; n++) {
            let i = lane.thread + n * THREADS;
            if (i / BLOCK_VEC4 == last && chunk.tokens > 0u) { nu[i % BLOCK_VEC4] = sums[n]; }
        }
    }
    clear_row_max(lane);
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

// The outputs of a chunk, when all threads have read it.
fn reduce_outputs(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {
    wait_for_readers();
    write_sums(state, item, chunk, lane);
    store_weights(item, chunk, lane);
}

// Rows of o that belong to no sequence are zero.
fn zero_rows(item: WorkItem, lane: Lane) {
    let len = (item.end - item.begin) * item.heads * BLOCK_COLUMNS_VEC4;
    for (var i = lane.thread; i < len; i += THREADS) {
        let row = i / BLOCK_COLUMNS_VEC4;
        let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + i % BLOCK_COLUMNS_VEC4;
        let t = item.begin + row_token(item, row);
        store_zero(output_begin(t, item.first_head + row_head(item, row)), c4);
    }
}

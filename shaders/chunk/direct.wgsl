// implements: chunk
//
// Rows that each thread loads for itself, a token at a time: a work item is a thread, which has all
// features of its columns, and threads share nothing. For CPU adapters, where a barrier costs more
// than to load and map a row again.
//
// memory  none

import constants::{BLOCK_COLUMNS_VEC4, CHECKPOINTS, COLUMNS_VEC4, HAS_TABLE, HAS_VALUES};
import constants::{ITEM_HEADS, KEY_MAP, NORMALIZE, QUERY_MAP, ROWS_VEC4, SCALES_QUERIES, THREADS};
import gates::{decay_nu};
import heads::{gate_row, key_begin, output_begin, value_begin};
import key_status::{check_key};
import lane::{Lane};
import map/stabiliser::{LOWEST, NO_SCALE, masked_features, row_gain, row_measure, row_scale};
import normalise::{row_factor_of};
import params::{workgroup_index};
import rows::{load_k, load_q, load_v, store_o};
import sequence_entry::{next_checkpoint};
import states/offset::{StateOffset};
import states::{load_nu, store_nu};
import tile::{Key, Value};
import work_item::{Chunk, WorkItem, chunk_output_begin, chunk_query_begin};
import work_item::{work_item, work_item_in_table};

// A function's own and not `private`, which some compilers keep in memory.
struct ChunkState {
    nu: Key,          // nu up to the token
    row_factor: f32,  // of the query row that was loaded last
}

// A row is loaded where it is read.
struct ChunkRows { unused: u32 }

fn item_of(workgroup: vec3<u32>, thread: u32, head_blocks: u32, segments: u32) -> WorkItem {
    let index = workgroup_index(workgroup) * THREADS + thread;
    if (HAS_TABLE) { return work_item_in_table(index, head_blocks); }
    return work_item(index, head_blocks, segments);
}

// The next token behind t at which the state is stored; item.end where there is none.
fn next_stop(item: WorkItem, t: u32, thread: u32) -> u32 {
    if (CHECKPOINTS == 0u) { return item.end; }
    return next_checkpoint(item.sequence, t, item.end);
}

fn thread_of_item(thread: u32) -> u32 { return 0u; }

fn load_chunk_nu(state: ptr<function, ChunkState>, at: StateOffset, item: WorkItem, lane: Lane) {
    if (!NORMALIZE) { return; }
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { (*state).nu[r] = load_nu(at, r); }
}

fn clear_chunk_nu(state: ptr<function, ChunkState>, lane: Lane) { (*state).nu = Key(); }

fn store_chunk_nu(state: ptr<function, ChunkState>, at: StateOffset, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { store_nu(at, r, (*state).nu[r]); }
}

fn load_chunk(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, lane: Lane) {}
fn load_queries(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, lane: Lane) {}
fn share_chunk(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {}
fn weigh_rows(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {}
fn add_keys(item: WorkItem, chunk: Chunk, lane: Lane) {}
fn wait_for_readers() {}

// The key of the token, which enters nu.
fn key(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Key {
    let begin = key_begin(chunk.first, item.key_head);
    var key = Key();
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) {
        key[r] = masked_features(KEY_MAP, load_k(begin, r), r, NO_SCALE);
        check_key(item, chunk.first, key[r]);
        if (NORMALIZE) {
            let nu = decay_nu((*state).nu[r], gate_row(chunk.first, item.head), r);
            (*state).nu[r] = nu + key[r];
        }
    }
    return key;
}

fn value(item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Value {
    let begin = value_begin(chunk.first + i, item.head);
    var value = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        if (HAS_VALUES) { value[c] = load_v(begin, item.value_block * BLOCK_COLUMNS_VEC4 + c); }
    }
    return value;
}

fn query(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, i: u32, h: u32, lane: Lane) -> Key {
    let begin = chunk_query_begin(item, chunk, i * item.heads + h);
    var query = Key();
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { query[r] = load_q(begin, r); }
    var scale = NO_SCALE;
    if (SCALES_QUERIES) {
        var largest = LOWEST;
        @unroll
        for (var r = 0u; r < ROWS_VEC4; r++) { largest = max(largest, row_measure(QUERY_MAP, query[r], r)); }
        scale = row_scale(QUERY_MAP, largest);
    }
    var weight = vec4<f32>(0.0);
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) {
        query[r] = masked_features(QUERY_MAP, query[r], r, scale);
        if (NORMALIZE) { weight += query[r] * (*state).nu[r]; }
    }
    (*state).row_factor = row_factor_of(dot(weight, vec4<f32>(1.0)), row_gain(QUERY_MAP, scale));
    return query;
}

fn store_output(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, row: u32, o: Value, lane: Lane) {
    let begin = chunk_output_begin(item, chunk, row);
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        store_o(begin, item.value_block * BLOCK_COLUMNS_VEC4 + c, o[c] * (*state).row_factor);
    }
}

fn reduce_outputs(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {}

// Rows of o that belong to no sequence are zero.
fn zero_rows(item: WorkItem, lane: Lane) {
    for (var t = item.begin; t < item.end; t++) {
        @once(ITEM_HEADS)
        for (var h = 0u; h < item.heads; h++) {
            @unroll
            for (var c = 0u; c < COLUMNS_VEC4; c++) {
                let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + c;
                store_o(output_begin(t, item.first_head + h), c4, vec4<f32>(0.0));
            }
        }
    }
}

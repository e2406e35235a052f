// implements: chunk
//
// Rows that each thread of decode_step loads for itself, as chunk/direct does for whole segments:
// here a thread goes through its rows of mu four at a time, so that a row of k or q is loaded and
// mapped four features at a time as well, and never held.
//
// memory  none

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, COLUMNS_VEC4, DECODE_HEADS, DECODE_ROWS, DECODE_TOKENS};
import constants::{KEY_MAP, NORMALIZE, QUERY_MAP, SCALES_QUERIES};
import gates::{decay_nu};
import heads::{gate_row, key_begin, output_begin, value_begin};
import key_status::{check_key};
import lane::{Lane};
import map/stabiliser::{LOWEST, NO_SCALE, RowScale, masked_features, row_gain, row_measure, row_scale};
import normalise::{row_factor_of};
import rows::{load_k, load_q, load_v, store_o};
import states/offset::{StateOffset};
import states::{load_nu, store_nu};
import tile::{Key, Value};
import work_item::{Chunk, WorkItem, chunk_output_begin, chunk_query_begin};

// A function's own and not `private`, which some compilers keep in memory.
struct ChunkState {
    nu: StateOffset,                      // offset of nu before the tokens
    scales: array<RowScale, DECODE_ROWS>, // of each query row
    row_factors: array<f32, DECODE_ROWS>, // of each row of q' mu
}

// A row is loaded where it is read.
struct ChunkRows { unused: u32 }

fn thread_of_item(thread: u32) -> u32 { return 0u; }

fn load_chunk_nu(state: ptr<function, ChunkState>, at: StateOffset, item: WorkItem, lane: Lane) { (*state).nu = at; }

fn store_chunk_nu(state: ptr<function, ChunkState>, at: StateOffset, item: WorkItem, chunk: Chunk, lane: Lane) {
    for (var f4 = 0u; f4 < BLOCK_VEC4; f4++) {
        var nu = load_nu((*state).nu, f4);
        for (var i = 0u; i < chunk.tokens; i++) { nu = next_nu(nu, item, chunk, i, f4); }
        store_nu(at, f4, nu);
    }
}

fn load_chunk(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, lane: Lane) {}
fn load_queries(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, lane: Lane) {}
fn share_chunk(rows: ptr<function, ChunkRows>, item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {}

fn weigh_rows(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll
    for (var row = 0u; row < DECODE_ROWS; row++) {
        (*state).scales[row] = NO_SCALE;
        if (SCALES_QUERIES && row < chunk.tokens * DECODE_HEADS) {
            let begin = chunk_query_begin(item, chunk, row);
            var largest = LOWEST;
            for (var f4 = 0u; f4 < BLOCK_VEC4; f4++) {
                largest = max(largest, row_measure(QUERY_MAP, load_q(begin, f4), f4));
            }
            (*state).scales[row] = row_scale(QUERY_MAP, largest);
        }
    }
    var weights: array<vec4<f32>, DECODE_ROWS>;
    if (NORMALIZE) {
        for (var f4 = 0u; f4 < BLOCK_VEC4; f4++) {
            var nu = load_nu((*state).nu, f4);
            @unroll
            for (var i = 0u; i < DECODE_TOKENS; i++) {
                if (i < chunk.tokens) {
                    nu = next_nu(nu, item, chunk, i, f4);
                    @unroll
                    for (var h = 0u; h < DECODE_HEADS; h++) {
                        let scale = (*state).scales[i * DECODE_HEADS + h];
                        weights[i * DECODE_HEADS + h] +=
                            nu * query_features(item, chunk, i * DECODE_HEADS + h, f4, scale);
                    }
                }
            }
        }
    }
    @unroll
    for (var row = 0u; row < DECODE_ROWS; row++) {
        (*state).row_factors[row] = row_factor_of(dot(weights[row], vec4<f32>(1.0)), row_gain(QUERY_MAP, (*state).scales[row]));
    }
}

fn next_nu(nu: vec4<f32>, item: WorkItem, chunk: Chunk, i: u32, f4: u32) -> vec4<f32> {
    let decayed = decay_nu(nu, gate_row(chunk.first + i, item.head), f4);
    return decayed + key_features(item, chunk, i, f4);
}

fn key_features(item: WorkItem, chunk: Chunk, i: u32, f4: u32) -> vec4<f32> {
    let t = chunk.first + i;
    let key = masked_features(KEY_MAP, load_k(key_begin(t, item.key_head), f4), f4, NO_SCALE);
    check_key(item, t, key);
    return key;
}

fn query_features(item: WorkItem, chunk: Chunk, row: u32, f4: u32, scale: RowScale) -> vec4<f32> {
    return masked_features(QUERY_MAP, load_q(chunk_query_begin(item, chunk, row), f4), f4, scale);
}

fn key(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Key {
    return Key(key_features(item, chunk, i, lane.f4));
}

fn query(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, i: u32, h: u32, lane: Lane) -> Key {
    let row = i * DECODE_HEADS + h;
    return Key(query_features(item, chunk, row, lane.f4, (*state).scales[row]));
}

fn value(item: WorkItem, chunk: Chunk, i: u32, lane: Lane) -> Value {
    let begin = value_begin(chunk.first + i, item.head);
    var value = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        value[c] = load_v(begin, item.value_block * BLOCK_COLUMNS_VEC4 + c);
    }
    return value;
}

fn store_output(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, row: u32, o: Value, lane: Lane) {
    let begin = chunk_output_begin(item, chunk, row);
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        store_o(begin, item.value_block * BLOCK_COLUMNS_VEC4 + c, o[c] * (*state).row_factors[row]);
    }
}

fn reduce_outputs(state: ptr<function, ChunkState>, item: WorkItem, chunk: Chunk, lane: Lane) {}

// Rows of o that belong to no sequence are zero.
fn zero_rows(item: WorkItem, lane: Lane) {
    for (var t = item.begin; t < item.end; t++) {
        for (var h = 0u; h < item.heads; h++) {
            @unroll
            for (var c = 0u; c < COLUMNS_VEC4; c++) {
                let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + c;
                store_o(output_begin(t, item.first_head + h), c4, vec4<f32>(0.0));
            }
        }
    }
}

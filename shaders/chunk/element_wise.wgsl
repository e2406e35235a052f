// implements: row_map
//
// Feature maps of one element each, those of this work item's feature block, on the way into workgroup
// memory. A query that is scaled waits there for its row max.

import constants::{BLOCK_VEC4, CHUNK_QUERIES, KEY_MAP, QUERY_MAP, SCALES_QUERIES, THREADS};
import chunk/features::{features, query_features};
import heads::{key_begin};
import key_status::{check_key};
import lane::{Lane};
import map/stabiliser::{NO_SCALE, RowScale, masked_features, row_gain, row_measure, row_scale};
import rows::{load_k, load_q};
import work_item::{Chunk, WorkItem, chunk_query_begin};

// The row max of each query, as an integer of the same order: [queries]
var<workgroup> row_max: array<atomic<u32>, CHUNK_QUERIES>;

fn clear_row_max(lane: Lane) {
    for (var row = lane.thread; row < CHUNK_QUERIES; row += THREADS) { atomicStore(&row_max[row], 0u); }
}

fn load_keys(item: WorkItem, chunk: Chunk, lane: Lane) {
    for (var i = lane.thread; i < chunk.tokens * BLOCK_VEC4; i += THREADS) {
        let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
        let x = load_k(key_begin(chunk.first + i / BLOCK_VEC4, item.head), f4);
        features[i] = masked_features(KEY_MAP, x, f4, NO_SCALE);
        check_key(item, chunk.first + i / BLOCK_VEC4, features[i]);
    }
}

fn load_queries(item: WorkItem, chunk: Chunk, lane: Lane) {
    for (var i = lane.thread; i < chunk.tokens * item.heads * BLOCK_VEC4; i += THREADS) {
        let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
        let row = i / BLOCK_VEC4;
        let x = load_q(chunk_query_begin(item, chunk, row), f4);
        let at = query_features(row) + i % BLOCK_VEC4;
        if (SCALES_QUERIES) {
            features[at] = x;
            atomicMax(&row_max[row], ordered_bits(row_measure(QUERY_MAP, x, f4)));
        } else {
            features[at] = masked_features(QUERY_MAP, x, f4, NO_SCALE);
        }
    }
}

// Each thread maps the queries that it loaded.
fn prepare_chunk(item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {
    workgroupBarrier();
    if (!SCALES_QUERIES || heads == 0u) { return; }
    for (var i = lane.thread; i < chunk.tokens * heads * BLOCK_VEC4; i += THREADS) {
        let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
        let row = i / BLOCK_VEC4;
        let at = query_features(row) + i % BLOCK_VEC4;
        features[at] = masked_features(QUERY_MAP, features[at], f4, query_scale(row));
    }
    workgroupBarrier();
}

fn query_scale(row: u32) -> RowScale {
    return row_scale(QUERY_MAP, value_of_bits(atomicLoad(&row_max[row])));
}

// The gain of a row, which is asked for once: the row max is cleared for the next chunk.
fn query_gain(row: u32) -> f32 {
    let gain = row_gain(QUERY_MAP, query_scale(row));
    atomicStore(&row_max[row], 0u);
    return gain;
}

// Bits whose order as integers is the order of the values; more than 0 for every value.
fn ordered_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn value_of_bits(bits: u32) -> f32 {
    return bitcast<f32>(select(~bits, bits & 0x7FFFFFFFu, (bits >> 31u) == 1u));
}

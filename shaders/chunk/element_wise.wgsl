// implements: row_map
//
// Feature maps of one element each, those of this work item's feature block, on the way into
// workgroup memory. A query that is scaled waits for its row max.

import constants::{BLOCK_VEC4, CHUNK_QUERIES, EPS, FEATURE_BLOCKS, KEY_MAP, KEY_SHARE, NORMALIZE, QUERY_MAP};
import constants::{QUERY_SHARE, ROW_SHARE, SCALES_QUERIES, THREADS};
import chunk/features::{features, query_features};
import chunk/loaded_rows::{LoadedRows};
import heads::{key_begin};
import key_status::{check_key};
import lane::{Lane};
import map/stabiliser::{NO_SCALE, RowScale, masked_features, row_gain, row_measure, row_scale};
import rows::{load_k, load_q};
import work_item::{Chunk, WorkItem, chunk_query_begin};

// Where more than a query's features is asked for.
const KEEPS_SCALES: bool = SCALES_QUERIES && (!NORMALIZE || EPS != 0.0 || FEATURE_BLOCKS > 1u);
const SCALES_LEN: u32 = select(1u, CHUNK_QUERIES, KEEPS_SCALES);

// The row max of each query, as an integer of the same order, 0 before: [queries]
var<workgroup> row_max: array<atomic<u32>, CHUNK_QUERIES>;
var<workgroup> query_scales: array<RowScale, SCALES_LEN>;

fn clear_row_max(lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < ROW_SHARE; n++) {
        let row = lane.thread + n * THREADS;
        if (row < CHUNK_QUERIES) { atomicStore(&row_max[row], 0u); }
    }
}

fn load_keys(rows: ptr<function, LoadedRows>, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < KEY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * BLOCK_VEC4) {
            let begin = key_begin(chunk.first + i / BLOCK_VEC4, item.key_head);
            (*rows).keys[n] = load_k(begin, item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4);
        }
    }
}

fn load_queries(rows: ptr<function, LoadedRows>, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < QUERY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * item.heads * BLOCK_VEC4) {
            let begin = chunk_query_begin(item, chunk, i / BLOCK_VEC4);
            (*rows).queries[n] = load_q(begin, item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4);
        }
    }
}

fn share_rows(rows: ptr<function, LoadedRows>, item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < KEY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * BLOCK_VEC4) {
            let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
            let key = masked_features(KEY_MAP, (*rows).keys[n], f4, NO_SCALE);
            features[i] = key;
            check_key(item, chunk.first + i / BLOCK_VEC4, key);
        }
    }
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < QUERY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * heads * BLOCK_VEC4) {
            let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
            let x = (*rows).queries[n];
            if (SCALES_QUERIES) {
                atomicMax(&row_max[i / BLOCK_VEC4], ordered_bits(row_measure(QUERY_MAP, x, f4)));
            } else {
                features[query_features(0u) + i] = masked_features(QUERY_MAP, x, f4, NO_SCALE);
            }
        }
    }
    workgroupBarrier();
    if (!SCALES_QUERIES || heads == 0u) { return; }
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < QUERY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        let row = i / BLOCK_VEC4;
        if (row < chunk.tokens * heads) {
            let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
            let scale = row_scale(QUERY_MAP, value_of_bits(atomicLoad(&row_max[row])));
            features[query_features(0u) + i] = masked_features(QUERY_MAP, (*rows).queries[n], f4, scale);
            if (KEEPS_SCALES && i % BLOCK_VEC4 == 0u) { query_scales[row] = scale; }
        }
    }
    // A thread that weighs a row reads what it wrote itself.
}

fn query_scale(row: u32) -> RowScale { return query_scales[row]; }

// The factor that a row's scale puts on its features, or 1 where that cancels.
fn query_gain(row: u32) -> f32 {
    if (!KEEPS_SCALES) { return 1.0; }
    return row_gain(QUERY_MAP, query_scales[row]);
}

// Bits whose order as integers is the order of the values; more than 0 for every value.
fn ordered_bits(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

fn value_of_bits(bits: u32) -> f32 {
    return bitcast<f32>(select(~bits, bits & 0x7FFFFFFFu, (bits >> 31u) == 1u));
}

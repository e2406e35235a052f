// implements: row_map
//
// Feature maps of a whole row: of its projections, of a sum over it, of products of its elements.
// Rows are loaded into workgroup memory as they are, and from there mapped to features, those of
// this work item's feature block.
//
// memory  vec4s: rows (K/4 + kept projections/4 + 1), rows being tokens and queries

import constants::{BLOCK_VEC4, CHUNK_QUERIES, CHUNK_TOKENS, FEATURE_DIM, KEPT_VEC4, KEY_KEPT_VEC4};
import constants::{KEY_MAP, KEY_SHARE, L2_NORM, QUERY_KEPT_VEC4, QUERY_MAP, QUERY_SHARE, SCALES_QUERIES, THREADS};
import chunk/features::{features, query_features};
import chunk/loaded_rows::{LoadedRows};
import heads::{key_begin};
import key_status::{check_key};
import lane::{Lane};
import map/formulas::{normalise_row, pre_features, row_statistics};
import map/row::{ROW_VEC4, Row, kept, mask_elements, project, row_chunk, statistics};
import map/stabiliser::{LOWEST, NO_SCALE, RowScale, masked_features, row_gain, row_measure, row_scale};
import params::{params};
import rows::{load_k, load_q};
import work_item::{Chunk, WorkItem, chunk_query_begin, row_head};

var<workgroup> query_scales: array<RowScale, CHUNK_QUERIES>;

fn clear_row_max(lane: Lane) {}

fn load_keys(rows: ptr<function, LoadedRows>, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < KEY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * ROW_VEC4) {
            (*rows).keys[n] = load_k(key_begin(chunk.first + i / ROW_VEC4, item.key_head), i % ROW_VEC4);
        }
    }
}

fn load_queries(rows: ptr<function, LoadedRows>, item: WorkItem, chunk: Chunk, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < QUERY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * item.heads * ROW_VEC4) {
            (*rows).queries[n] = load_q(chunk_query_begin(item, chunk, i / ROW_VEC4), i % ROW_VEC4);
        }
    }
}

fn share_rows(rows: ptr<function, LoadedRows>, item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < KEY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * ROW_VEC4) { row_chunk[i] = mask_elements((*rows).keys[n], i % ROW_VEC4, 0.0); }
    }
    @unroll(SHARE_UNROLL)
    for (var n = 0u; n < QUERY_SHARE; n++) {
        let i = lane.thread + n * THREADS;
        if (i < chunk.tokens * heads * ROW_VEC4) {
            let x = mask_elements((*rows).queries[n], i % ROW_VEC4, 0.0);
            row_chunk[CHUNK_TOKENS * ROW_VEC4 + i] = x;
        }
    }
    workgroupBarrier();
    map_rows(item, chunk, heads, lane);
}

// From rows to features, in workgroup memory.
fn map_rows(item: WorkItem, chunk: Chunk, heads: u32, lane: Lane) {
    let queries = chunk.tokens * heads;
    let rows = chunk.tokens + queries;
    if (L2_NORM) {
        for (var i = lane.thread; i < rows; i += THREADS) { normalise_row(row_of(item, chunk, i)); }
        workgroupBarrier();
    }
    if (KEPT_VEC4 > 0u) {
        for (var i = lane.thread; i < rows * KEPT_VEC4; i += THREADS) {
            let row = row_of(item, chunk, i / max(KEPT_VEC4, 1u));
            let p4 = i % max(KEPT_VEC4, 1u);
            if (p4 < select(KEY_KEPT_VEC4, QUERY_KEPT_VEC4, row.is_query)) {
                kept[row.at * KEPT_VEC4 + p4] = project(row, p4);
            }
        }
        workgroupBarrier();
    }
    for (var i = lane.thread; i < rows; i += THREADS) {
        let row = row_of(item, chunk, i);
        statistics[row.at] = row_statistics(map_of(row), row);
    }
    workgroupBarrier();
    for (var i = lane.thread; i < rows * BLOCK_VEC4; i += THREADS) {
        let row = row_of(item, chunk, i / BLOCK_VEC4);
        let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
        var x = vec4<f32>(0.0);
        if (4u * f4 < FEATURE_DIM) { x = pre_features(map_of(row), row, f4); }
        if (!SCALES_QUERIES || !row.is_query) { x = masked_features(map_of(row), x, f4, NO_SCALE); }
        features[row.at * BLOCK_VEC4 + i % BLOCK_VEC4] = x;
        if (!row.is_query) { check_key(item, chunk.first + row.at, x); }
    }
    workgroupBarrier();
    if (!SCALES_QUERIES || heads == 0u) { return; }
    for (var row = lane.thread; row < queries; row += THREADS) {
        var largest = LOWEST;
        for (var i = 0u; i < BLOCK_VEC4; i++) {
            let f4 = item.feature_block * BLOCK_VEC4 + i;
            largest = max(largest, row_measure(QUERY_MAP, features[query_features(row) + i], f4));
        }
        query_scales[row] = row_scale(QUERY_MAP, largest);
    }
    workgroupBarrier();
    for (var i = lane.thread; i < queries * BLOCK_VEC4; i += THREADS) {
        let row = i / BLOCK_VEC4;
        let f4 = item.feature_block * BLOCK_VEC4 + i % BLOCK_VEC4;
        let at = query_features(row) + i % BLOCK_VEC4;
        features[at] = masked_features(QUERY_MAP, features[at], f4, query_scales[row]);
    }
    workgroupBarrier();
}

fn query_scale(row: u32) -> RowScale { return query_scales[row]; }

fn query_gain(row: u32) -> f32 { return row_gain(QUERY_MAP, query_scales[row]); }

// Row i of a chunk: its keys, then its queries.
fn row_of(item: WorkItem, chunk: Chunk, i: u32) -> Row {
    if (i < chunk.tokens) { return Row(i, params.key_weights * item.key_head, false); }
    let query = i - chunk.tokens;
    let head = item.query_head + row_head(item, query);
    let weights_head = select(head, item.key_head, params.shares_key_weights != 0u);
    let weights = params.query_weights_begin + params.query_weights * weights_head;
    return Row(CHUNK_TOKENS + query, weights, true);
}

fn map_of(row: Row) -> u32 {
    if (KEY_MAP == QUERY_MAP) { return KEY_MAP; }
    return select(KEY_MAP, QUERY_MAP, row.is_query);
}

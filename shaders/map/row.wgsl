// Rows of q and k in workgroup memory, and what a row-wise feature map may ask of one.

import constants::{CHUNK_QUERIES, CHUNK_TOKENS, KEPT_VEC4, KEY_DIM, KEY_WEIGHT_VEC4, QUERY_WEIGHT_VEC4};

const ROW_VEC4: u32 = (KEY_DIM + 3u) / 4u;
const CHUNK_ROWS: u32 = CHUNK_TOKENS + CHUNK_QUERIES;
const ROW_CHUNK_LEN: u32 = CHUNK_ROWS * ROW_VEC4;
const KEPT_LEN: u32 = max(CHUNK_ROWS * KEPT_VEC4, 1u);

// For each head of keys and then of queries, W transposed and beneath it b: [K' + 1, P'/4]
@group(0) @binding(9) var<storage, read_write> weights: array<vec4<f32>>;

// Keys of the chunk, then queries, zero from K on: [rows, K/4]
var<workgroup> row_chunk: array<vec4<f32>, ROW_CHUNK_LEN>;
// y = W x + b, where a feature is a function of all of them: [rows, P/4]
var<workgroup> kept: array<vec4<f32>, KEPT_LEN>;
// The values that all features of a row share: see row_statistics. [rows]
var<workgroup> statistics: array<vec4<f32>, CHUNK_ROWS>;

struct Row {
    at: u32,         // index in workgroup memory
    weights: u32,    // the first vec4 of its head's weights
    is_query: bool,
}

fn x_vec4(row: Row, x4: u32) -> vec4<f32> { return row_chunk[row.at * ROW_VEC4 + x4]; }
fn y_vec4(row: Row, p4: u32) -> vec4<f32> { return kept[row.at * KEPT_VEC4 + p4]; }

// Element i of a row, and element p of the projections that it keeps. A caller's own map may ask
// for any: beyond the last it gets the last.
fn x(row: Row, i: u32) -> f32 {
    let j = min(i, KEY_DIM - 1u);
    return row_chunk[row.at * ROW_VEC4 + j / 4u][j % 4u];
}

fn y(row: Row, p: u32) -> f32 {
    let j = min(p, max(4u * KEPT_VEC4, 1u) - 1u);
    return kept[row.at * KEPT_VEC4 + j / 4u][j % 4u];
}

// Four elements of a row of K, and `other` beyond its end.
fn mask_elements(x: vec4<f32>, x4: u32, other: f32) -> vec4<f32> {
    let i = vec4<u32>(4u * x4) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(other), x, i < vec4<u32>(KEY_DIM));
}

// y = W x + b, four neighbouring elements of it.
fn project(row: Row, p4: u32) -> vec4<f32> {
    let stride = select(KEY_WEIGHT_VEC4, QUERY_WEIGHT_VEC4, row.is_query);
    var at = row.weights + p4;
    var sum = weights[at + 4u * ROW_VEC4 * stride];
    for (var i = 0u; i < ROW_VEC4; i++) {
        let x = x_vec4(row, i);
        sum += x.x * weights[at] + x.y * weights[at + stride]
            + x.z * weights[at + 2u * stride] + x.w * weights[at + 3u * stride];
        at += 4u * stride;
    }
    return sum;
}

// Rows of q and k and the arguments of their maps: y = W x + b where the map has weights, and else
// x, the row, divided by its L2 norm where it is. The backward pass computes projections once and
// keeps them; the gradients by them take their places.

import constants::{KEY_DIM, KEY_WEIGHT_VEC4, L2_NORM, QUERY_WEIGHT_VEC4};
import heads::{key_begin, key_head, query_begin, query_head};
import params::{params};
import rows::{load_k, load_q};

const ROW_VEC4: u32 = (KEY_DIM + 3u) / 4u;
const HAS_WEIGHTS: bool = KEY_WEIGHT_VEC4 + QUERY_WEIGHT_VEC4 > 0u;
const KEY_ARGUMENT_VEC4: u32 = select(KEY_WEIGHT_VEC4, ROW_VEC4, KEY_WEIGHT_VEC4 == 0u);
const QUERY_ARGUMENT_VEC4: u32 = select(QUERY_WEIGHT_VEC4, ROW_VEC4, QUERY_WEIGHT_VEC4 == 0u);
// An argument and, in the last, 1 over the L2 norm, half of the squared norm of x / K^(1/4), and
// the factor of x in the gradient by x that no projection has.
const PROJECTION_ROW: u32 = max(KEY_ARGUMENT_VEC4, QUERY_ARGUMENT_VEC4) + 1u;

// [T,E,PROJECTION_ROW] of keys and then [T,max(H,E),PROJECTION_ROW] of queries
@group(0) @binding(10) var<storage, read_write> projections: array<vec4<f32>>;

// Token t, and value head of a key or output head of a query.
struct RowIndex {
    is_key: bool,
    t: u32,
    head: u32,
}

// x of a row.
struct Elements {
    is_key: bool,
    begin: u32,          // its first access in `rows`
    inverse_norm: f32,   // 1 over the L2 norm, or 1
}

// Rows as `keys` and then `queries` have them.
fn rows_len() -> u32 { return params.total_tokens * (params.value_heads + params.output_heads); }

fn row_index(i: u32) -> RowIndex {
    let key_rows = params.total_tokens * params.value_heads;
    if (i < key_rows) { return RowIndex(true, i / params.value_heads, i % params.value_heads); }
    let at = i - key_rows;
    return RowIndex(false, at / params.output_heads, at % params.output_heads);
}

// Its first vec4 in `projections`.
fn projection_row(row: RowIndex) -> u32 {
    if (row.is_key) { return (row.t * params.value_heads + row.head) * PROJECTION_ROW; }
    let at = (params.total_tokens * params.value_heads) + row.t * params.output_heads + row.head;
    return at * PROJECTION_ROW;
}

fn row_norms(row: RowIndex) -> vec4<f32> { return projections[projection_row(row) + PROJECTION_ROW - 1u]; }

// vec4s of the projections of a row, 0 where its map has none, and of its argument.
fn weight_vec4(is_key: bool) -> u32 { return select(QUERY_WEIGHT_VEC4, KEY_WEIGHT_VEC4, is_key); }

fn argument_vec4(is_key: bool) -> u32 { return select(QUERY_ARGUMENT_VEC4, KEY_ARGUMENT_VEC4, is_key); }

fn elements_of(row: RowIndex, inverse_norm: f32) -> Elements {
    if (row.is_key) { return Elements(true, key_begin(row.t, key_head(row.head)), inverse_norm); }
    return Elements(false, query_begin(row.t, query_head(row.head)), inverse_norm);
}

// The same where the norm is not known yet.
fn normalised_elements(row: RowIndex) -> Elements {
    var x = elements_of(row, 1.0);
    if (L2_NORM) { x.inverse_norm = 1.0 / sqrt(squared_norm(x) + 1e-6); }
    return x;
}

fn squared_norm(x: Elements) -> f32 {
    var sum = 0.0;
    for (var x4 = 0u; x4 < ROW_VEC4; x4++) { sum += dot(elements(x, x4), elements(x, x4)); }
    return sum;
}

// Elements 4 x4 .. + 3 of x, 0 from K on.
fn elements(x: Elements, x4: u32) -> vec4<f32> {
    var loaded = vec4<f32>(0.0);
    if (x.is_key) { loaded = load_k(x.begin, x4); } else { loaded = load_q(x.begin, x4); }
    return select(vec4<f32>(0.0), loaded * x.inverse_norm, is_element(x4));
}

fn is_element(x4: u32) -> vec4<bool> {
    return vec4<u32>(4u * x4) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(KEY_DIM);
}

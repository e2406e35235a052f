// The weights of the maps: for each head of keys and then of queries, W transposed and beneath it
// b, [4 ROW_VEC4 + 1, vec4s of the projections].

import constants::{KEY_WEIGHT_VEC4, QUERY_WEIGHT_VEC4};
import gradient/argument::{ROW_VEC4, RowIndex};
import heads::{key_head, query_head};
import params::{params};

// vec4s of a head.
const KEY_HEAD_VEC4: u32 = (4u * ROW_VEC4 + 1u) * KEY_WEIGHT_VEC4;
const QUERY_HEAD_VEC4: u32 = (4u * ROW_VEC4 + 1u) * QUERY_WEIGHT_VEC4;

@group(0) @binding(9) var<storage, read_write> weights: array<vec4<f32>>;

// The first vec4 of the weights of a row.
fn weights_begin(row: RowIndex) -> u32 {
    if (row.is_key) { return key_head(row.head) * params.key_weights; }
    var head = query_head(row.head);
    if (params.shares_key_weights != 0u) { head = key_head(row.head / params.group); }
    return params.query_weights_begin + head * params.query_weights;
}

// Sums over pieces of the tokens of the gradients by weights, in scratch.

import gradient/weights::{KEY_HEAD_VEC4, QUERY_HEAD_VEC4};
import params::{params};

// [pieces, E KEY_HEAD_VEC4 + max(H,E) QUERY_HEAD_VEC4]
@group(0) @binding(15) var<storage, read_write> partials: array<vec4<f32>>;

fn pieces() -> u32 { return (params.total_tokens + params.chunk_len - 1u) / params.chunk_len; }

// vec4s of a piece.
fn partials_stride() -> u32 {
    return params.value_heads * KEY_HEAD_VEC4 + params.output_heads * QUERY_HEAD_VEC4;
}

// Of a value head's keys or an output head's queries.
fn partials_begin(is_key: bool, piece: u32, head: u32) -> u32 {
    let begin = piece * partials_stride();
    if (is_key) { return begin + head * KEY_HEAD_VEC4; }
    return begin + params.value_heads * KEY_HEAD_VEC4 + head * QUERY_HEAD_VEC4;
}

// implements: rows
//
// q, k, v and o in f32, where K, V and F are multiples of four: every access is a vec4.
//
// Beyond the end of a row its last vec4 is read again: a feature map masks what is no feature, and
// what is no value belongs to a column that is never stored.

import constants::{KEY_DIM, VALUE_DIM};

const KEY_ROW_VEC4: u32 = KEY_DIM / 4u;
const VALUE_ROW_VEC4: u32 = VALUE_DIM / 4u;

@group(0) @binding(1) var<storage, read_write> q: array<vec4<f32>>;  // [T,H,K]
@group(0) @binding(2) var<storage, read_write> k: array<vec4<f32>>;  // [T,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f32>>;  // [T,E,V]
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;  // [T,max(H,E),V]

fn load_q(begin: u32, x4: u32) -> vec4<f32> {
    return q[begin + min(x4, KEY_ROW_VEC4 - 1u)];
}

fn load_k(begin: u32, x4: u32) -> vec4<f32> {
    return k[begin + min(x4, KEY_ROW_VEC4 - 1u)];
}

fn load_v(begin: u32, c4: u32) -> vec4<f32> {
    return v[begin + min(c4, VALUE_ROW_VEC4 - 1u)];
}

fn store_o(begin: u32, c4: u32, x: vec4<f32>) {
    if (c4 < VALUE_ROW_VEC4) { o[begin + c4] = x; }
}

// implements: rows
//
// q, k, v and o in f32, where K, V or F is no multiple of four: rows begin anywhere, so every
// access is a scalar.
//
// Beyond the end of a row its last element is read again: a feature map masks what is no feature,
// and what is no value belongs to a column that is never stored.

import constants::{KEY_DIM, VALUE_DIM};

@group(0) @binding(1) var<storage, read_write> q: array<f32>;  // [T,H,K]
@group(0) @binding(2) var<storage, read_write> k: array<f32>;  // [T,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<f32>;  // [T,E,V]
@group(0) @binding(4) var<storage, read_write> o: array<f32>;  // [T,max(H,E),V]

fn load_q(begin: u32, x4: u32) -> vec4<f32> {
    let i = row_elements(begin, x4, KEY_DIM);
    return vec4<f32>(q[i.x], q[i.y], q[i.z], q[i.w]);
}

fn load_k(begin: u32, x4: u32) -> vec4<f32> {
    let i = row_elements(begin, x4, KEY_DIM);
    return vec4<f32>(k[i.x], k[i.y], k[i.z], k[i.w]);
}

fn load_v(begin: u32, c4: u32) -> vec4<f32> {
    let i = row_elements(begin, c4, VALUE_DIM);
    return vec4<f32>(v[i.x], v[i.y], v[i.z], v[i.w]);
}

fn store_o(begin: u32, c4: u32, x: vec4<f32>) {
    let column = 4u * c4;
    let i = begin + column;
    if (column < VALUE_DIM) { o[i] = x.x; }
    if (column + 1u < VALUE_DIM) { o[i + 1u] = x.y; }
    if (column + 2u < VALUE_DIM) { o[i + 2u] = x.z; }
    if (column + 3u < VALUE_DIM) { o[i + 3u] = x.w; }
}

// Indices of elements 4 x4 .. + 3 of a row of `width` elements.
fn row_elements(begin: u32, x4: u32, width: u32) -> vec4<u32> {
    let element = min(vec4<u32>(4u * x4) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(width - 1u));
    return vec4<u32>(begin) + element;
}

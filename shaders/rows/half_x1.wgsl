// implements: rows
//
// q, k, v and o in f16 or bf16, where K, V or F is no multiple of four: rows begin anywhere, also
// in the middle of a word, which two threads may then write to.
//
// Beyond the end of a row its last element is read again: a feature map masks what is no feature,
// and what is no value belongs to a column that is never stored.

import constants::{KEY_DIM, VALUE_DIM};
import rows/half::{half_bits, half_value};

@group(0) @binding(1) var<storage, read_write> q: array<u32>;          // [T,H,K], two to a word
@group(0) @binding(2) var<storage, read_write> k: array<u32>;          // [T,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<u32>;          // [T,E,V]
@group(0) @binding(4) var<storage, read_write> o: array<atomic<u32>>;  // [T,max(H,E),V]

fn load_q(begin: u32, x4: u32) -> vec4<f32> {
    let i = row_elements(begin, x4, KEY_DIM);
    return half_values(i, vec4<u32>(q[i.x / 2u], q[i.y / 2u], q[i.z / 2u], q[i.w / 2u]));
}

fn load_k(begin: u32, x4: u32) -> vec4<f32> {
    let i = row_elements(begin, x4, KEY_DIM);
    return half_values(i, vec4<u32>(k[i.x / 2u], k[i.y / 2u], k[i.z / 2u], k[i.w / 2u]));
}

fn load_v(begin: u32, c4: u32) -> vec4<f32> {
    let i = row_elements(begin, c4, VALUE_DIM);
    return half_values(i, vec4<u32>(v[i.x / 2u], v[i.y / 2u], v[i.z / 2u], v[i.w / 2u]));
}

fn store_o(begin: u32, c4: u32, x: vec4<f32>) {
    let column = 4u * c4;
    let i = begin + column;
    if (column < VALUE_DIM) { store_half(i, x.x); }
    if (column + 1u < VALUE_DIM) { store_half(i + 1u, x.y); }
    if (column + 2u < VALUE_DIM) { store_half(i + 2u, x.z); }
    if (column + 3u < VALUE_DIM) { store_half(i + 3u, x.w); }
}

// The other half of the word may be another thread's: each changes its own bits alone.
fn store_half(i: u32, x: f32) {
    let shift = 16u * (i % 2u);
    atomicAnd(&o[i / 2u], ~(0xFFFFu << shift));
    atomicOr(&o[i / 2u], half_bits(x) << shift);
}

// Elements i, each in its word.
fn half_values(i: vec4<u32>, words: vec4<u32>) -> vec4<f32> {
    let bits = (words >> (16u * (i % vec4<u32>(2u)))) & vec4<u32>(0xFFFFu);
    return vec4<f32>(half_value(bits.x), half_value(bits.y), half_value(bits.z), half_value(bits.w));
}

// Indices of elements 4 x4 .. + 3 of a row of `width` elements.
fn row_elements(begin: u32, x4: u32, width: u32) -> vec4<u32> {
    let element = min(vec4<u32>(4u * x4) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(width - 1u));
    return vec4<u32>(begin) + element;
}

// implements: rows
//
// q, k, v and o in f16 on matrix units, whose devices convert it, where K, V and F are multiples of
// four: every access is 8 bytes. Subnormal numbers are as the device takes them.
//
// Beyond the end of a row as in rows/half_x4.

import constants::{KEY_DIM, VALUE_DIM};

const KEY_ROW_VEC4: u32 = KEY_DIM / 4u;
const VALUE_ROW_VEC4: u32 = VALUE_DIM / 4u;

@group(0) @binding(1) var<storage, read_write> q: array<vec4<f16>>;  // [T,H,K/4]
@group(0) @binding(2) var<storage, read_write> k: array<vec4<f16>>;  // [T,G,K/4]
@group(0) @binding(3) var<storage, read_write> v: array<vec4<f16>>;  // [T,E,V/4]
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f16>>;  // [T,max(H,E),V/4]

fn load_q(begin: u32, x4: u32) -> vec4<f32> { return vec4<f32>(q[begin + min(x4, KEY_ROW_VEC4 - 1u)]); }

fn load_k(begin: u32, x4: u32) -> vec4<f32> { return vec4<f32>(k[begin + min(x4, KEY_ROW_VEC4 - 1u)]); }

fn load_v(begin: u32, c4: u32) -> vec4<f32> { return vec4<f32>(v[begin + min(c4, VALUE_ROW_VEC4 - 1u)]); }

fn store_o(begin: u32, c4: u32, x: vec4<f32>) {
    if (c4 < VALUE_ROW_VEC4) { o[begin + c4] = vec4<f16>(x); }
}

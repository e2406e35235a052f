// q, k, v and o in f32, where K, V and F are multiples of four: every access is 16 bytes.

@group(0) @binding(1) var<storage, read_write> q: array<Element>;      // [M,H,K]
@group(0) @binding(2) var<storage, read_write> k: array<Element>;      // [M,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<Element>;      // [M,G,V]
@group(0) @binding(4) var<storage, read_write> o: array<Element>;      // [M,H,V]

// Beyond a row its last quad is read again: feature_quad masks what is no feature, and
// what is no value belongs to a column that is never stored.
fn q_quad(row: u32, quad: u32) -> vec4<f32> {
    return q[row * KEY_QUADS + min(quad, KEY_QUADS - 1u)];
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> {
    return k[row * KEY_QUADS + min(quad, KEY_QUADS - 1u)];
}

fn v_quad(row: u32, quad: u32) -> vec4<f32> {
    return v[row * VALUE_DIM_QUADS + min(quad, VALUE_DIM_QUADS - 1u)];
}

fn store_o_quad(row: u32, quad: u32, x: vec4<f32>) {
    if (quad < VALUE_DIM_QUADS) { o[row * VALUE_DIM_QUADS + quad] = x; }
}

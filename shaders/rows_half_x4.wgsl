// q, k, v and o in f16 or bf16, where K, V and F are multiples of four: every access is 8 bytes.

@group(0) @binding(1) var<storage, read_write> q: array<vec2<u32>>;  // [M,H,K/4]
@group(0) @binding(2) var<storage, read_write> k: array<vec2<u32>>;  // [M,G,K/4]
@group(0) @binding(3) var<storage, read_write> v: array<vec2<u32>>;  // [M,G,V/4]
@group(0) @binding(4) var<storage, read_write> o: array<vec2<u32>>;  // [M,H,V/4]

// Beyond a row its last quad is read again: feature_quad masks what is no feature, and
// what is no value belongs to a column that is never stored.
fn q_quad(row: u32, quad: u32) -> vec4<f32> {
    return unpack_quad(q[row * KEY_QUADS + min(quad, KEY_QUADS - 1u)]);
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> {
    return unpack_quad(k[row * KEY_QUADS + min(quad, KEY_QUADS - 1u)]);
}

fn v_quad(row: u32, quad: u32) -> vec4<f32> {
    return unpack_quad(v[row * VALUE_DIM_QUADS + min(quad, VALUE_DIM_QUADS - 1u)]);
}

fn store_o_quad(row: u32, quad: u32, x: vec4<f32>) {
    if (quad < VALUE_DIM_QUADS) {
        o[row * VALUE_DIM_QUADS + quad] = vec2<u32>(pack(x.xy), pack(x.zw));
    }
}

fn unpack_quad(words: vec2<u32>) -> vec4<f32> {
    return vec4<f32>(unpack(words.x), unpack(words.y));
}

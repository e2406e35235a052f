// q, k, v and o in f32, where K, V or F is no multiple of four: rows begin anywhere, so every access is
// 4 bytes, and a quad at the end of a row may hold fewer than four numbers.

@group(0) @binding(1) var<storage, read_write> q: array<Element>;      // [M,H,K]
@group(0) @binding(2) var<storage, read_write> k: array<Element>;      // [M,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<Element>;      // [M,G,V]
@group(0) @binding(4) var<storage, read_write> o: array<Element>;      // [M,H,V]

fn q_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(q[key_at(row, x)], q[key_at(row, x + 1u)], q[key_at(row, x + 2u)], q[key_at(row, x + 3u)]);
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(k[key_at(row, x)], k[key_at(row, x + 1u)], k[key_at(row, x + 2u)], k[key_at(row, x + 3u)]);
}

fn v_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(v[value_at(row, x)], v[value_at(row, x + 1u)], v[value_at(row, x + 2u)], v[value_at(row, x + 3u)]);
}

fn store_o_quad(row: u32, quad: u32, x: vec4<f32>) {
    let first = 4u * quad;
    let at = row * VALUE_DIM + first;
    if (first < VALUE_DIM) { o[at] = x.x; }
    if (first + 1u < VALUE_DIM) { o[at + 1u] = x.y; }
    if (first + 2u < VALUE_DIM) { o[at + 2u] = x.z; }
    if (first + 3u < VALUE_DIM) { o[at + 3u] = x.w; }
}

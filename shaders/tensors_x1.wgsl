// The tensors where K or V is no multiple of four: rows begin anywhere, so every
// access is 4 bytes, and a quad at the end of a row may hold fewer than four numbers.
//
// All are declared read_write, because WebGPU refuses one buffer as both read and
// read_write in a dispatch, and callers carve all tensors from one buffer.

alias Element = f32;
const ELEMENT_LEN: u32 = 1u;

@group(0) @binding(1) var<storage, read_write> q: array<Element>;         // [N,T,H,K]
@group(0) @binding(2) var<storage, read_write> k: array<Element>;         // [N,T,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<Element>;         // [N,T,G,V]
@group(0) @binding(4) var<storage, read_write> o: array<Element>;         // [N,T,H,V]
@group(0) @binding(5) var<storage, read_write> start_mu: array<Element>;  // [N,S,G,F,V]
@group(0) @binding(6) var<storage, read_write> start_nu: array<Element>;  // [N,S,G,F]
@group(0) @binding(7) var<storage, read_write> end_mu: array<Element>;    // [N,S,G,F,V]
@group(0) @binding(8) var<storage, read_write> end_nu: array<Element>;    // [N,S,G,F]

// How many numbers of a quad lie inside a row.
fn quad_len(quad: u32, width: u32) -> u32 {
    return min(4u, width - min(width, 4u * quad));
}

fn q_quad(row: u32, quad: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < quad_len(quad, KEY_DIM); j++) { x[j] = q[row * KEY_DIM + 4u * quad + j]; }
    return x;
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < quad_len(quad, KEY_DIM); j++) { x[j] = k[row * KEY_DIM + 4u * quad + j]; }
    return x;
}

fn v_quad(row: u32, quad: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    for (var j = 0u; j < quad_len(quad, VALUE_DIM); j++) { x[j] = v[row * VALUE_DIM + 4u * quad + j]; }
    return x;
}

fn store_o_quad(row: u32, quad: u32, x: vec4<f32>) {
    for (var j = 0u; j < quad_len(quad, VALUE_DIM); j++) { o[row * VALUE_DIM + 4u * quad + j] = x[j]; }
}

fn start_mu_quad(row: u32, feature: u32, quad: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    if (params.start == START_ZERO || feature >= KEY_DIM) { return x; }
    for (var j = 0u; j < quad_len(quad, VALUE_DIM); j++) {
        let at = row * VALUE_DIM + 4u * quad + j;
        if (params.start == START_IN_PLACE) { x[j] = end_mu[at]; } else { x[j] = start_mu[at]; }
    }
    return x;
}

fn start_nu_quad(state: u32, quad: u32) -> vec4<f32> {
    var x = vec4<f32>(0.0);
    if (params.start == START_ZERO) { return x; }
    for (var j = 0u; j < quad_len(quad, KEY_DIM); j++) {
        let at = state * KEY_DIM + 4u * quad + j;
        if (params.start == START_IN_PLACE) { x[j] = end_nu[at]; } else { x[j] = start_nu[at]; }
    }
    return x;
}

fn store_end_mu_quad(row: u32, quad: u32, x: vec4<f32>) {
    for (var j = 0u; j < quad_len(quad, VALUE_DIM); j++) { end_mu[row * VALUE_DIM + 4u * quad + j] = x[j]; }
}

fn store_end_nu_quad(state: u32, quad: u32, x: vec4<f32>) {
    for (var j = 0u; j < quad_len(quad, KEY_DIM); j++) { end_nu[state * KEY_DIM + 4u * quad + j] = x[j]; }
}

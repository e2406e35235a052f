// q, k, v and o in f16 or bf16, where K, V or F is no multiple of four: rows begin anywhere, also in
// the middle of a word, which two threads may then write to.

@group(0) @binding(1) var<storage, read_write> q: array<u32>;          // [M,H,K], two to a word
@group(0) @binding(2) var<storage, read_write> k: array<u32>;          // [M,G,K]
@group(0) @binding(3) var<storage, read_write> v: array<u32>;          // [M,G,V]
@group(0) @binding(4) var<storage, read_write> o: array<atomic<u32>>;  // [M,H,V]

fn q_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(q_number(key_at(row, x)), q_number(key_at(row, x + 1u)),
        q_number(key_at(row, x + 2u)), q_number(key_at(row, x + 3u)));
}

fn k_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(k_number(key_at(row, x)), k_number(key_at(row, x + 1u)),
        k_number(key_at(row, x + 2u)), k_number(key_at(row, x + 3u)));
}

fn v_quad(row: u32, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(v_number(value_at(row, x)), v_number(value_at(row, x + 1u)),
        v_number(value_at(row, x + 2u)), v_number(value_at(row, x + 3u)));
}

fn store_o_quad(row: u32, quad: u32, x: vec4<f32>) {
    let first = 4u * quad;
    let at = row * VALUE_DIM + first;
    if (first < VALUE_DIM) { store_o_number(at, x.x); }
    if (first + 1u < VALUE_DIM) { store_o_number(at + 1u, x.y); }
    if (first + 2u < VALUE_DIM) { store_o_number(at + 2u, x.z); }
    if (first + 3u < VALUE_DIM) { store_o_number(at + 3u, x.w); }
}

fn q_number(at: u32) -> f32 { return number_of((q[at / 2u] >> (16u * (at % 2u))) & 0xFFFFu); }
fn k_number(at: u32) -> f32 { return number_of((k[at / 2u] >> (16u * (at % 2u))) & 0xFFFFu); }
fn v_number(at: u32) -> f32 { return number_of((v[at / 2u] >> (16u * (at % 2u))) & 0xFFFFu); }

// The other half of the word may be another thread's: each changes its own bits alone.
fn store_o_number(at: u32, x: f32) {
    let shift = 16u * (at % 2u);
    atomicAnd(&o[at / 2u], ~(0xFFFFu << shift));
    atomicOr(&o[at / 2u], bits_of(x) << shift);
}

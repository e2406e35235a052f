// implements: gates
//
// A decay for each token, value head and row of mu, and a beta, as token_gates writes them.

import constants::{DECAY_ROWS, ROWS_VEC4};

const DECAY_VEC4: u32 = (DECAY_ROWS + 3u) / 4u;
const GATE_VEC4: u32 = DECAY_VEC4 + 1u;

// [T,E,GATE_VEC4]: exp(decay) - 1 of each row, 0 beyond F; beta
@group(0) @binding(11) var<storage, read_write> gates: array<vec4<f32>>;

struct Decay { of_rows: array<vec4<f32>, ROWS_VEC4> }

fn load_decay(row: u32, f4: u32) -> Decay {
    var decay: Decay;
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { decay.of_rows[r] = row_decay(row, f4 + r); }
    return decay;
}

fn load_beta(row: u32) -> f32 { return gates[row * GATE_VEC4 + DECAY_VEC4].x; }

// Of rows 4 r .. + 3 of a tile.
fn decay_vec4(decay: Decay, r: u32) -> vec4<f32> { return decay.of_rows[r]; }

// nu, of features 4 f4 .. + 3.
fn decay_nu(nu: vec4<f32>, row: u32, f4: u32) -> vec4<f32> { return nu + row_decay(row, f4) * nu; }

fn row_decay(row: u32, f4: u32) -> vec4<f32> {
    return gates[row * GATE_VEC4 + min(f4, DECAY_VEC4 - 1u)];
}

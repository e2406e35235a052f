// implements: gates
//
// A decay, if there is one, and a beta for each token and value head, as token_gates writes them.

import constants::{HAS_DECAY};

// [T,E]: exp(decay) - 1, beta
@group(0) @binding(11) var<storage, read_write> gates: array<vec2<f32>>;

struct Decay { of_head: f32 }

fn load_decay(row: u32, f4: u32) -> Decay { return Decay(gates[row].x); }

fn load_beta(row: u32) -> f32 { return gates[row].y; }

// Of rows 4 r .. + 3 of a tile.
fn decay_vec4(decay: Decay, r: u32) -> vec4<f32> { return vec4<f32>(decay.of_head); }

// nu, of features 4 f4 .. + 3.
fn decay_nu(nu: vec4<f32>, row: u32, f4: u32) -> vec4<f32> {
    if (!HAS_DECAY) { return nu; }
    return nu + gates[row].x * nu;
}

// implements: states
//
// States where K, V and F are multiples of four: every access is a vec4.
//
// Every binding of the crate is read_write: WebGPU refuses one buffer as both read and read_write
// in a dispatch, and callers carve all tensors from one buffer.

import constants::{FEATURE_DIM, FULL_COLUMNS, FULL_ROWS, INITIAL_STATE, VALUE_DIM};
import constants::{STATE_IN_PLACE, STATE_ZERO};
import states/offset::{StateOffset};

alias Element = vec4<f32>;
const ELEMENT_LEN: u32 = 4u;
const STATE_VEC4: u32 = VALUE_DIM / 4u;

@group(0) @binding(5) var<storage, read_write> state_in: array<Element>;   // [states, state]
@group(0) @binding(6) var<storage, read_write> state_out: array<Element>;  // [states, state]

fn component(x: Element, i: u32) -> f32 { return x[i]; }

// The element of nu that has these four.
fn element_of(x: vec4<f32>, i: u32) -> Element { return x; }

// Four values of row `feature` of mu; 0 outside of it. One return: SwiftShader's compiler takes time
// and memory without end where one with several is inlined for each vec4 of a tile.
fn load_mu(at: StateOffset, feature: u32, c4: u32) -> vec4<f32> {
    var x = vec4<f32>();
    if (INITIAL_STATE != STATE_ZERO && is_in_mu(feature, c4)) {
        let i = at.mu + feature * STATE_VEC4 + c4;
        if (INITIAL_STATE == STATE_IN_PLACE) { x = state_out[i]; } else { x = state_in[i]; }
    }
    return x;
}

fn store_mu(at: StateOffset, feature: u32, c4: u32, x: vec4<f32>) {
    if (is_in_mu(feature, c4)) { state_out[at.mu + feature * STATE_VEC4 + c4] = x; }
}

// Features 4 f4 .. + 3 of nu.
fn load_nu(at: StateOffset, f4: u32) -> vec4<f32> {
    if (INITIAL_STATE == STATE_ZERO || 4u * f4 >= FEATURE_DIM) { return vec4<f32>(0.0); }
    if (INITIAL_STATE == STATE_IN_PLACE) { return state_out[at.nu + f4]; }
    return state_in[at.nu + f4];
}

fn store_nu(at: StateOffset, f4: u32, x: vec4<f32>) {
    if (4u * f4 < FEATURE_DIM) { state_out[at.nu + f4] = x; }
}

fn is_in_mu(feature: u32, c4: u32) -> bool {
    return (FULL_ROWS || feature < FEATURE_DIM) && (FULL_COLUMNS || c4 < STATE_VEC4);
}

// implements: states
//
// States where K, V or F is no multiple of four: every access is a scalar.
//
// Every binding of the crate is read_write: WebGPU refuses one buffer as both read and read_write
// in a dispatch, and callers carve all tensors from one buffer.

import constants::{FEATURE_DIM, FULL_COLUMNS, FULL_ROWS, INITIAL_STATE, VALUE_DIM};
import constants::{STATE_IN_PLACE, STATE_ZERO};
import states/offset::{StateOffset};

alias Element = f32;
const ELEMENT_LEN: u32 = 1u;

@group(0) @binding(5) var<storage, read_write> state_in: array<Element>;   // [states, state]
@group(0) @binding(6) var<storage, read_write> state_out: array<Element>;  // [states, state]

fn component(x: Element, i: u32) -> f32 { return x; }

// The element of nu that is number i of four.
fn element_of(x: vec4<f32>, i: u32) -> Element { return x[i]; }

// Four values of row `feature` of mu; 0 outside of it. Where a row ends within the four, its last
// value is read again, for columns that are never stored. It is this thread's own: in place,
// another thread's may be written meanwhile.
fn load_mu(at: StateOffset, feature: u32, c4: u32) -> vec4<f32> {
    var x = vec4<f32>();
    if (INITIAL_STATE != STATE_ZERO && is_in_mu(feature, c4)) {
        let column = min(vec4<u32>(4u * c4) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(VALUE_DIM - 1u));
        let i = vec4<u32>(at.mu + feature * VALUE_DIM) + column;
        if (INITIAL_STATE == STATE_IN_PLACE) {
            x = vec4<f32>(state_out[i.x], state_out[i.y], state_out[i.z], state_out[i.w]);
        } else {
            x = vec4<f32>(state_in[i.x], state_in[i.y], state_in[i.z], state_in[i.w]);
        }
    }
    return x;
}

fn store_mu(at: StateOffset, feature: u32, c4: u32, x: vec4<f32>) {
    if (!FULL_ROWS && feature >= FEATURE_DIM) { return; }
    let column = 4u * c4;
    let i = at.mu + feature * VALUE_DIM + column;
    if (column < VALUE_DIM) { state_out[i] = x.x; }
    if (column + 1u < VALUE_DIM) { state_out[i + 1u] = x.y; }
    if (column + 2u < VALUE_DIM) { state_out[i + 2u] = x.z; }
    if (column + 3u < VALUE_DIM) { state_out[i + 3u] = x.w; }
}

// Features 4 f4 .. + 3 of nu; 0 beyond F.
fn load_nu(at: StateOffset, f4: u32) -> vec4<f32> {
    let f = 4u * f4;
    return vec4<f32>(nu_element(at, f), nu_element(at, f + 1u), nu_element(at, f + 2u), nu_element(at, f + 3u));
}

fn nu_element(at: StateOffset, feature: u32) -> f32 {
    if (INITIAL_STATE == STATE_ZERO || feature >= FEATURE_DIM) { return 0.0; }
    if (INITIAL_STATE == STATE_IN_PLACE) { return state_out[at.nu + feature]; }
    return state_in[at.nu + feature];
}

fn store_nu(at: StateOffset, f4: u32, x: vec4<f32>) {
    let f = 4u * f4;
    if (f < FEATURE_DIM) { state_out[at.nu + f] = x.x; }
    if (f + 1u < FEATURE_DIM) { state_out[at.nu + f + 1u] = x.y; }
    if (f + 2u < FEATURE_DIM) { state_out[at.nu + f + 2u] = x.z; }
    if (f + 3u < FEATURE_DIM) { state_out[at.nu + f + 3u] = x.w; }
}

fn is_in_mu(feature: u32, c4: u32) -> bool {
    return (FULL_ROWS || feature < FEATURE_DIM) && (FULL_COLUMNS || 4u * c4 < VALUE_DIM);
}

// The states, where K, V or F is no multiple of four: every access is 4 bytes.
//
// All bindings are declared read_write, because WebGPU refuses one buffer as both read and
// read_write in a dispatch, and callers carve all tensors from one buffer.

alias Element = f32;
const ELEMENT_LEN: u32 = 1u;

// Quads of values of a thread in thread/decode_step.wgsl: one, since with an access for each
// number four of them are more than some compilers live through.
const SLICE_QUADS: u32 = 1u;

@group(0) @binding(5) var<storage, read_write> start: array<Element>;  // states: of N, of a pool, of segments
@group(0) @binding(6) var<storage, read_write> end: array<Element>;    // the same

// A place in a row of `width` numbers. Beyond the row its last number is read again:
// feature_quad masks what is no feature, and what is no value is never stored.
fn key_at(row: u32, x: u32) -> u32 { return row * KEY_DIM + min(x, KEY_DIM - 1u); }
fn value_at(row: u32, x: u32) -> u32 { return row * VALUE_DIM + min(x, VALUE_DIM - 1u); }

fn start_mu_quad(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    if (feature >= FEATURE_DIM) { return vec4<f32>(0.0); }
    return start_mu_inside(state, feature, quad);
}

// The same for a feature that is known to be inside.
fn start_mu_inside(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    if (START == START_ZERO) { return vec4<f32>(0.0); }
    if (START == START_IN_PLACE) { return end_mu_inside(state, feature, quad); }
    let at = mu_places(state, feature, quad);
    return vec4<f32>(start[at.x], start[at.y], start[at.z], start[at.w]);
}

fn end_mu_inside(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    let at = mu_places(state, feature, quad);
    return vec4<f32>(end[at.x], end[at.y], end[at.z], end[at.w]);
}

fn mu_places(state: StateAt, feature: u32, quad: u32) -> vec4<u32> {
    let x = 4u * quad;
    return vec4<u32>(state.mu) + vec4<u32>(
        value_at(feature, x), value_at(feature, x + 1u),
        value_at(feature, x + 2u), value_at(feature, x + 3u));
}

// Features beyond F start at zero: 0 times what a row ends with could be NaN.
fn start_nu_quad(state: StateAt, quad: u32) -> vec4<f32> {
    let x = 4u * quad;
    return vec4<f32>(start_nu_element(state, x), start_nu_element(state, x + 1u),
        start_nu_element(state, x + 2u), start_nu_element(state, x + 3u));
}

fn start_nu_element(state: StateAt, feature: u32) -> f32 {
    if (START == START_ZERO || feature >= FEATURE_DIM) { return 0.0; }
    if (START == START_IN_PLACE) { return end[state.nu + feature]; }
    return start[state.nu + feature];
}

fn store_end_mu_quad(state: StateAt, feature: u32, quad: u32, x: vec4<f32>) {
    let first = 4u * quad;
    let at = state.mu + feature * VALUE_DIM + first;
    if (first < VALUE_DIM) { end[at] = x.x; }
    if (first + 1u < VALUE_DIM) { end[at + 1u] = x.y; }
    if (first + 2u < VALUE_DIM) { end[at + 2u] = x.z; }
    if (first + 3u < VALUE_DIM) { end[at + 3u] = x.w; }
}

fn store_end_mu_inside(state: StateAt, feature: u32, quad: u32, x: vec4<f32>) {
    store_end_mu_quad(state, feature, quad, x);
}

fn store_end_nu_quad(state: StateAt, quad: u32, x: vec4<f32>) {
    let first = 4u * quad;
    store_end_nu_element(state, first, x.x);
    store_end_nu_element(state, first + 1u, x.y);
    store_end_nu_element(state, first + 2u, x.z);
    store_end_nu_element(state, first + 3u, x.w);
}

fn store_end_nu_element(state: StateAt, feature: u32, x: f32) {
    if (feature < FEATURE_DIM) { end[state.nu + feature] = x; }
}

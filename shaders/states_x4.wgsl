// The states, where K, V and F are multiples of four: every access is 16 bytes.
//
// All bindings are declared read_write, because WebGPU refuses one buffer as both read and
// read_write in a dispatch, and callers carve all tensors from one buffer.

alias Element = vec4<f32>;
const ELEMENT_LEN: u32 = 4u;

// Quads of values of a thread in thread/decode_step.wgsl.
const SLICE_QUADS: u32 = 4u;

@group(0) @binding(5) var<storage, read_write> start: array<Element>;  // states: of N, of a pool, of segments
@group(0) @binding(6) var<storage, read_write> end: array<Element>;    // the same

override KEY_QUADS: u32 = KEY_DIM / 4u;
override FEATURE_DIM_QUADS: u32 = FEATURE_DIM / 4u;
override VALUE_DIM_QUADS: u32 = VALUE_DIM / 4u;

fn start_mu_quad(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    if (feature >= FEATURE_DIM || quad >= VALUE_DIM_QUADS) { return vec4<f32>(0.0); }
    return start_mu_inside(state, feature, quad);
}

// The same for a place that is known to be inside.
fn start_mu_inside(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    if (START == START_ZERO) { return vec4<f32>(0.0); }
    if (START == START_IN_PLACE) { return end_mu_inside(state, feature, quad); }
    return start[state.mu + feature * VALUE_DIM_QUADS + quad];
}

fn end_mu_inside(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    return end[state.mu + feature * VALUE_DIM_QUADS + quad];
}

fn start_nu_quad(state: StateAt, quad: u32) -> vec4<f32> {
    if (START == START_ZERO || quad >= FEATURE_DIM_QUADS) { return vec4<f32>(0.0); }
    if (START == START_IN_PLACE) { return end[state.nu + quad]; }
    return start[state.nu + quad];
}

fn store_end_mu_quad(state: StateAt, feature: u32, quad: u32, x: vec4<f32>) {
    if (quad < VALUE_DIM_QUADS) { store_end_mu_inside(state, feature, quad, x); }
}

fn store_end_mu_inside(state: StateAt, feature: u32, quad: u32, x: vec4<f32>) {
    end[state.mu + feature * VALUE_DIM_QUADS + quad] = x;
}

fn store_end_nu_quad(state: StateAt, quad: u32, x: vec4<f32>) {
    if (quad < FEATURE_DIM_QUADS) { end[state.nu + quad] = x; }
}

fn start_nu_element(state: StateAt, feature: u32) -> f32 {
    return start_nu_quad(state, feature / 4u)[feature % 4u];
}

fn store_end_nu_element(state: StateAt, feature: u32, x: f32) {
    end[state.nu + feature / 4u][feature % 4u] = x;
}

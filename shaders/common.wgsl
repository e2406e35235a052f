// What every stage shares: the numbers fixed when a pipeline is made, the numbers
// fixed when tensors are bound, the feature map, and where things are.
//
// The last part of every module.

// Fixed per pipeline. src/kernel/stage.rs sets every one; none has a second home.
override KEY_DIM: u32;          // K
override VALUE_DIM: u32;        // V
override FEATURE_DIM: u32;      // F
override FEATURE_BLOCKS: u32;   // blocks of features that a state is taken apart into
override KEY_MAP: u32;          // phi of keys, one of the constants below
override QUERY_MAP: u32;        // phi of queries
override NORMALIZE: bool;
override SCALE: f32;            // s
override EPS: f32;
override LOG_EPS: f32;          // its logarithm, or the least number there is
override START: u32;            // START_*: what a sequence starts from
override STARTS_IN_SCRATCH: bool;  // whether each segment has a state to start from
override WRITE_END: bool;       // whether the final state is wanted
override LENGTHS_GIVEN: bool;   // whether a buffer says which tokens a sequence has
override SLOTS_GIVEN: bool;     // whether a buffer says which slot of a pool it has
override MAY_CLASH: bool;       // whether what the buffer says was checked by nobody

// The feature maps; a test compares them with src/problem/feature_map/mod.rs. Up to SIGMOID a feature is a
// function of the number at its place.
const IDENTITY: u32 = 0u;
const RELU: u32 = 1u;
const ELU: u32 = 2u;
const RELU_SQUARED: u32 = 3u;
const EXP: u32 = 4u;
const SILU: u32 = 5u;
const SIGMOID: u32 = 6u;
const SOFTMAX: u32 = 7u;
const T2R: u32 = 8u;
const HEDGEHOG: u32 = 9u;
const HEDGEHOG_JOINT: u32 = 10u;
const PRODUCT: u32 = 11u;
const FAVOR: u32 = 12u;
const FAVOR_HYPERBOLIC: u32 = 13u;
const FOURIER: u32 = 14u;
const TAYLOR: u32 = 15u;
const DPFP: u32 = 16u;
const CUSTOM: u32 = 17u;

const START_ZERO: u32 = 0u;
const START_GIVEN: u32 = 1u;
const START_IN_PLACE: u32 = 2u;

// Fixed per binding. src/kernel/params.rs mirrors it field by field, and a test compares the offsets.
struct Params {
    sequences: u32,     // N
    seq_len: u32,       // T of a sequence, where all have as many tokens
    tokens: u32,        // M, tokens of all sequences
    max_len: u32,       // tokens of the longest
    heads: u32,         // H
    kv_heads: u32,      // G
    group: u32,         // H / G: query heads that read one key/value head
    head_tile: u32,     // query heads of a place
    head_blocks: u32,   // ceil(group / head_tile)
    value_blocks: u32,  // ceil(V / values of a place)
    segments: u32,      // S of a sequence, where all have as many tokens
    segment_len: u32,   // tokens of a segment; the last may have fewer
    chunk_len: u32,     // tokens of a chunk, at most CHUNK_TOKENS
    states: u32,        // states in `start` and `end`, outside scratch: N, or the pool's slots
    key_weights: u32,   // four-vectors from one head's weights to the next, for keys
    query_begin: u32,   // where those of queries begin
    query_weights: u32, // from one head's to the next, for queries
    query_group: u32,   // query heads that have the same
    grid_width: u32,    // workgroups along x; the rest is folded into y
}

@group(0) @binding(0) var<uniform> params: Params;

// phi where a feature is a function of the number at its place. Of the two terms of elu + 1 one
// is always exact, exp(0) = 1 or 0, so that nothing cancels as it does in expm1(x) + 1; and no
// exp leaves its range, but for EXP's own.
fn element_wise(map: u32, x: vec4<f32>) -> vec4<f32> {
    let zero = vec4<f32>(0.0);
    switch map {
        case RELU: { return max(x, zero); }
        case ELU: { return exp(min(x, zero)) + max(x, zero); }
        case RELU_SQUARED: { return max(x, zero) * max(x, zero); }
        case EXP: { return exp(x); }
        case SILU: { return x * sigmoid(x); }
        case SIGMOID: { return sigmoid(x); }
        default: { return x; }
    }
}

// 1 / (1 + e^-x), without an e^x above 1.
fn sigmoid(x: vec4<f32>) -> vec4<f32> {
    let e = exp(-abs(x));
    return select(e, vec4<f32>(1.0), x >= vec4<f32>(0.0)) / (1.0 + e);
}

// phi(0) need not be 0: what lies beyond F is masked after the map.
fn feature_quad(map: u32, x: vec4<f32>, quad: u32) -> vec4<f32> {
    return select(vec4<f32>(0.0), element_wise(map, x), are_features(quad));
}

// The same of a query, whose largest number is taken off where the map is EXP.
fn query_feature_quad(x: vec4<f32>, quad: u32, shift: f32) -> vec4<f32> {
    if (QUERY_MAP == EXP) { return feature_quad(QUERY_MAP, x - shift, quad); }
    return feature_quad(QUERY_MAP, x, quad);
}

// Numbers of a row, and below all of them where there are none.
fn or_lowest(x: vec4<f32>, quad: u32) -> vec4<f32> {
    return select(vec4<f32>(-3.4e38), x, are_features(quad));
}

fn are_features(quad: u32) -> vec4<bool> {
    return vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u) < vec4<u32>(FEATURE_DIM);
}

// What a query is mapped less, of which `largest` is the largest number. Without a quotient that
// takes it back, e^shift must itself be in range.
fn shift_of(largest: f32) -> f32 {
    if (NORMALIZE) { return largest; }
    return clamp(largest, -80.0, 80.0);
}

// What a row of q' mu is multiplied by, where q' . nu is `sum`. Both are too small by e^shift, for
// a query that was mapped less that.
fn factor_of(sum: f32, shift: f32) -> f32 {
    if (QUERY_MAP == EXP) {
        if (!NORMALIZE) { return SCALE * exp(shift); }
        return shifted_factor(sum, LOG_EPS - shift);
    }
    if (!NORMALIZE) { return SCALE; }
    return quotient(SCALE, SCALE * sum + EPS);
}

// With eps e^-shift in place of eps, whose logarithm is given: where it is large, numerator and
// denominator are both divided by it.
fn shifted_factor(sum: f32, log_eps: f32) -> f32 {
    if (log_eps > 0.0) {
        let scale = SCALE * exp(-log_eps);
        return quotient(scale, scale * sum + 1.0);
    }
    return quotient(SCALE, SCALE * sum + exp(log_eps));
}

// A row without weight is 0, also where the caller chose eps = 0.
fn quotient(scale: f32, denominator: f32) -> f32 {
    return select(scale / denominator, 0.0, denominator == 0.0);
}

// Where mu [F,V] and nu [F] of a key/value head begin in a buffer of states, in its elements.
// A state, that is what one sequence has, is mu [G,F,V] and then nu [G,F].
struct StateAt { mu: u32, nu: u32 }

fn state_at(state: u32, g: u32) -> StateAt {
    let mu_len = FEATURE_DIM * VALUE_DIM / ELEMENT_LEN;
    let nu_len = FEATURE_DIM / ELEMENT_LEN;
    let begin = state * state_len();
    return StateAt(begin + g * mu_len, begin + params.kv_heads * mu_len + g * nu_len);
}

// Elements of a state.
fn state_len() -> u32 {
    return params.kv_heads * (FEATURE_DIM * VALUE_DIM / ELEMENT_LEN + FEATURE_DIM / ELEMENT_LEN);
}

// Row of token t in k and v, seen as [M G, width]. Tokens count through all sequences.
fn kv_row(t: u32, g: u32) -> u32 {
    return t * params.kv_heads + g;
}

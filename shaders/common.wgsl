// What every stage shares: the numbers fixed when a pipeline is made, the numbers
// fixed when tensors are bound, the feature map, and where things are.
//
// The last part of every module.

// Fixed per pipeline. src/stage.rs sets every one; none has a second home.
override KEY_DIM: u32;          // K
override VALUE_DIM: u32;        // V
override FEATURE_MAP: u32;      // 0 identity, 1 relu, 2 elu + 1
override NORMALIZE: bool;
override SCALE: f32;            // s
override EPS: f32;
override START: u32;            // START_*: what a sequence starts from
override STARTS_IN_SCRATCH: bool;  // whether each segment has a state to start from
override WRITE_END: bool;       // whether the final state is wanted
override LENGTHS_GIVEN: bool;   // whether a buffer says which tokens a sequence has
override SLOTS_GIVEN: bool;     // whether a buffer says which slot of a pool it has
override MAY_CLASH: bool;       // whether what the buffer says was checked by nobody

const START_ZERO: u32 = 0u;
const START_GIVEN: u32 = 1u;
const START_IN_PLACE: u32 = 2u;

// Fixed per binding. src/params.rs mirrors it field by field, and a test compares the offsets.
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
    grid_width: u32,    // workgroups along x; the rest is folded into y
}

@group(0) @binding(0) var<uniform> params: Params;

// phi, element by element. Of the two terms of elu + 1 one is always exact, exp(0) = 1 or
// 0, so that nothing cancels as it does in expm1(x) + 1; and exp stays in range.
fn phi(x: vec4<f32>) -> vec4<f32> {
    switch FEATURE_MAP {
        case 1u: { return max(x, vec4<f32>(0.0)); }
        case 2u: { return exp(min(x, vec4<f32>(0.0))) + max(x, vec4<f32>(0.0)); }
        default: { return x; }
    }
}

// phi(0) need not be 0: what lies beyond K is masked after the map.
fn feature_quad(x: vec4<f32>, quad: u32) -> vec4<f32> {
    let feature = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), phi(x), feature < vec4<u32>(KEY_DIM));
}

// What a row of q' mu is multiplied by, where q' . nu is `sum`.
fn factor_of(sum: f32) -> f32 {
    if (!NORMALIZE) { return SCALE; }
    let denominator = SCALE * sum + EPS;
    // A row without weight is 0, also where the caller chose eps = 0.
    return select(SCALE / denominator, 0.0, denominator == 0.0);
}

// Where mu [F,V] and nu [F] of a key/value head begin in a buffer of states, in its elements.
// A state, that is what one sequence has, is mu [G,F,V] and then nu [G,F].
struct StateAt { mu: u32, nu: u32 }

fn state_at(state: u32, g: u32) -> StateAt {
    let mu_len = KEY_DIM * VALUE_DIM / ELEMENT_LEN;
    let nu_len = KEY_DIM / ELEMENT_LEN;
    let begin = state * state_len();
    return StateAt(begin + g * mu_len, begin + params.kv_heads * mu_len + g * nu_len);
}

// Elements of a state.
fn state_len() -> u32 {
    return params.kv_heads * (KEY_DIM * VALUE_DIM / ELEMENT_LEN + KEY_DIM / ELEMENT_LEN);
}

// Row of token t in k and v, seen as [M G, width]. Tokens count through all sequences.
fn kv_row(t: u32, g: u32) -> u32 {
    return t * params.kv_heads + g;
}

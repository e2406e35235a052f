// What every stage shares: the numbers fixed when a pipeline is made, the numbers
// fixed when tensors are bound, the feature map, and the tokens in workgroup memory.
//
// Appended after a stage, after its tile_*.wgsl and after its tensors_*.wgsl.

// Fixed per pipeline. src/stage.rs sets every one; none has a second home.
override KEY_DIM: u32;          // K
override VALUE_DIM: u32;        // V
override FEATURE_THREADS: u32;  // threads along F; each holds TILE_FEATURES of them
override COLUMN_THREADS: u32;   // threads along V; each holds TILE_VALUES of them
override CHUNK_TOKENS: u32;     // most tokens in workgroup memory at a time
override CHUNK_QUERIES: u32;    // most query rows in workgroup memory at a time
override FEATURE_MAP: u32;      // 0 identity, 1 relu, 2 elu + 1
override NORMALIZE: bool;
override SCALE: f32;            // s
override EPS: f32;
override SCAN_THREADS: u32;     // threads of state_scan, which has no tile

override THREADS: u32 = FEATURE_THREADS * COLUMN_THREADS;
// A quad is four numbers side by side: a vec4.
override FEATURE_QUADS: u32 = FEATURE_THREADS * TILE_FEATURE_QUADS;
override VALUE_QUADS: u32 = COLUMN_THREADS * TILE_VALUE_QUADS;
override FEATURE_CHUNK_LEN: u32 = (CHUNK_TOKENS + CHUNK_QUERIES) * FEATURE_QUADS;
override VALUE_CHUNK_LEN: u32 = CHUNK_TOKENS * VALUE_QUADS;
override PARTIAL_LEN: u32 = CHUNK_QUERIES * FEATURE_THREADS * VALUE_QUADS;
override DOT_LEN: u32 = CHUNK_QUERIES * FEATURE_QUADS;

const START_ZERO: u32 = 0u;
const START_GIVEN: u32 = 1u;
const START_IN_PLACE: u32 = 2u;

// Fixed per binding. src/params.rs mirrors it field by field, and a test compares the offsets.
struct Params {
    batch: u32,         // N
    seq_len: u32,       // T
    heads: u32,         // H
    kv_heads: u32,      // G
    group: u32,         // H / G: query heads that read one key/value head
    head_tile: u32,     // query heads that one workgroup serves
    head_blocks: u32,   // ceil(group / head_tile)
    value_blocks: u32,  // ceil(V / values of a workgroup)
    segments: u32,      // S
    segment_len: u32,   // tokens of a segment; the last may have fewer
    chunk_len: u32,     // tokens of a chunk, at most CHUNK_TOKENS
    grid_width: u32,    // workgroups along x; the rest is folded into y
    start: u32,         // START_*
    write_end: u32,     // whether the final state is wanted
    pad_0: u32,
    pad_1: u32,
}

@group(0) @binding(0) var<uniform> params: Params;

// phi(k) of the chunk, a row a token, then phi(q), a row a token and query head: [rows, F/4]
var<workgroup> feature_chunk: array<vec4<f32>, FEATURE_CHUNK_LEN>;
// v of the chunk, this workgroup's columns: [tokens, columns/4]
var<workgroup> value_chunk: array<vec4<f32>, VALUE_CHUNK_LEN>;
// nu up to the chunk: [F/4]
var<workgroup> nu: array<vec4<f32>, FEATURE_QUADS>;
// Shares of q' mu: [rows, F/tile, columns/4], and of q' . nu: [rows, F/4]
var<workgroup> o_partial: array<vec4<f32>, PARTIAL_LEN>;
var<workgroup> dot_partial: array<f32, DOT_LEN>;
// What each row of q' mu is multiplied by: [rows]
var<workgroup> factor: array<f32, CHUNK_QUERIES>;

// phi, element by element. elu(x) + 1 is never formed by adding 1 to expm1(x), which cancels;
// min keeps exp in range where its result is not the one selected.
fn phi(x: vec4<f32>) -> vec4<f32> {
    switch FEATURE_MAP {
        case 1u: { return max(x, vec4<f32>(0.0)); }
        case 2u: { return select(exp(min(x, vec4<f32>(0.0))), x + 1.0, x >= vec4<f32>(0.0)); }
        default: { return x; }
    }
}

// phi(0) need not be 0: what lies beyond K is masked after the map.
fn feature_quad(x: vec4<f32>, quad: u32) -> vec4<f32> {
    let feature = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(0.0), phi(x), feature < vec4<u32>(KEY_DIM));
}

// Which part of the problem a workgroup has.
struct Place {
    inside: bool,      // false for the overhang of a folded grid
    n: u32,            // sequence
    segment: u32,
    g: u32,            // key/value head
    head_block: u32,
    value_block: u32,
    begin: u32,        // tokens begin .. end
    end: u32,
}

fn place_of(workgroup: vec3<u32>, head_blocks: u32, segments: u32) -> Place {
    var place: Place;
    var rest = workgroup.y * params.grid_width + workgroup.x;
    place.value_block = rest % params.value_blocks;
    rest /= params.value_blocks;
    place.head_block = rest % head_blocks;
    rest /= head_blocks;
    place.g = rest % params.kv_heads;
    rest /= params.kv_heads;
    place.segment = rest % segments;
    place.n = rest / segments;
    place.inside = place.n < params.batch;
    place.begin = place.segment * params.segment_len;
    place.end = min(place.begin + params.segment_len, params.seq_len);
    return place;
}

// Row of token t in k and v, seen as [N T G, width].
fn kv_row(place: Place, t: u32) -> u32 {
    return (place.n * params.seq_len + t) * params.kv_heads + place.g;
}

// Reads phi(k) and v of tokens first .. first + count into workgroup memory.
fn load_keys_and_values(place: Place, first: u32, count: u32, thread: u32) {
    for (var i = thread; i < count * FEATURE_QUADS; i += THREADS) {
        let quad = i % FEATURE_QUADS;
        feature_chunk[i] = feature_quad(k_quad(kv_row(place, first + i / FEATURE_QUADS), quad), quad);
    }
    for (var i = thread; i < count * VALUE_QUADS; i += THREADS) {
        let quad = place.value_block * VALUE_QUADS + i % VALUE_QUADS;
        value_chunk[i] = v_quad(kv_row(place, first + i / VALUE_QUADS), quad);
    }
}

// The features of one row that belong to a thread.
fn features_of(row: u32, feature_thread: u32) -> Features {
    return load_features(row * FEATURE_QUADS + feature_thread * TILE_FEATURE_QUADS);
}

// Where the columns of a thread begin in a row of VALUE_QUADS: a thread takes every
// COLUMN_THREADS-th quad, so that neighbouring threads touch neighbouring quads.
fn values_of(token: u32, column_thread: u32) -> Values {
    return load_values(token * VALUE_QUADS + column_thread);
}

// A quad of one row of q' mu: the shares of all threads along F.
fn sum_of_shares(row: u32, quad: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var share = 0u; share < FEATURE_THREADS; share++) {
        sum += o_partial[(row * FEATURE_THREADS + share) * VALUE_QUADS + quad];
    }
    return sum;
}

fn load_start_nu(state: u32, thread: u32) {
    for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
        nu[quad] = start_nu_quad(state, quad);
    }
}

fn store_end_nu(state: u32, thread: u32) {
    for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
        store_end_nu_quad(state, quad, nu[quad]);
    }
}

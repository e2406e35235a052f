// A chunk of tokens in workgroup memory, from which all threads of the workgroup read.

override FEATURE_THREADS: u32;  // threads along a block of F; each holds 16 features
override COLUMN_THREADS: u32;   // threads along V; each holds 4 values
override CHUNK_TOKENS: u32;     // most tokens in workgroup memory at a time
override CHUNK_QUERIES: u32;    // most query rows in workgroup memory at a time

override THREADS: u32 = FEATURE_THREADS * COLUMN_THREADS;
// A quad is four numbers side by side: a vec4.
override FEATURE_QUADS: u32 = FEATURE_THREADS * TILE_FEATURE_QUADS;
override VALUE_QUADS: u32 = COLUMN_THREADS * TILE_VALUE_QUADS;
override FEATURE_CHUNK_LEN: u32 = (CHUNK_TOKENS + CHUNK_QUERIES) * FEATURE_QUADS;
override VALUE_CHUNK_LEN: u32 = CHUNK_TOKENS * VALUE_QUADS;

// phi(k) of the chunk, a row a token, then phi(q), a row a token and query head, this workgroup's
// block of features: [rows, features/4]
var<workgroup> feature_chunk: array<vec4<f32>, FEATURE_CHUNK_LEN>;
// v of the chunk, this workgroup's columns: [tokens, columns/4]
var<workgroup> value_chunk: array<vec4<f32>, VALUE_CHUNK_LEN>;
// nu up to the chunk: [features/4]
var<workgroup> nu: array<vec4<f32>, FEATURE_QUADS>;

// A chunk of tokens, and the query heads that read it.
struct Chunk {
    first: u32,        // tokens first .. first + count
    count: u32,
    first_head: u32,   // query heads first_head .. first_head + heads
    heads: u32,
    g: u32,            // key/value head
    value_block: u32,
    feature_block: u32,
    is_new: bool,      // false where other heads have brought the tokens into the state
}

// The number of a workgroup in a folded grid.
fn workgroup_index(workgroup: vec3<u32>) -> u32 {
    return workgroup.y * params.grid_width + workgroup.x;
}

// Reads v of the chunk into workgroup memory.
fn load_chunk_values(chunk: Chunk, thread: u32) {
    for (var i = thread; i < chunk.count * VALUE_QUADS; i += THREADS) {
        let quad = chunk.value_block * VALUE_QUADS + i % VALUE_QUADS;
        value_chunk[i] = v_quad(kv_row(chunk.first + i / VALUE_QUADS, chunk.g), quad);
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

fn load_start_nu(state: StateAt, feature_block: u32, thread: u32) {
    for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
        nu[quad] = start_nu_quad(state, feature_block * FEATURE_QUADS + quad);
    }
}

fn store_end_nu(state: StateAt, feature_block: u32, thread: u32) {
    for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
        store_end_nu_quad(state, feature_block * FEATURE_QUADS + quad, nu[quad]);
    }
}

// Row of q and o, seen as [M H, width], of one of a chunk's query rows.
fn o_row(chunk: Chunk, row: u32) -> u32 {
    return (chunk.first + row / chunk.heads) * params.heads + chunk.first_head + row % chunk.heads;
}

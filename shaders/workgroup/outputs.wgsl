// The outputs of a chunk, from the state before it, which moves on to the state after it.

override PARTIAL_LEN: u32 = CHUNK_QUERIES * FEATURE_THREADS * VALUE_QUADS;
override DOT_LEN: u32 = CHUNK_QUERIES * FEATURE_QUADS;

// Shares of q' mu: [rows, features/16, columns/4], and of q' . nu: [rows, features/4]
var<workgroup> o_partial: array<vec4<f32>, PARTIAL_LEN>;
var<workgroup> dot_partial: array<f32, DOT_LEN>;
// What each row of q' mu is multiplied by: [rows]
var<workgroup> factor: array<f32, CHUNK_QUERIES>;

fn chunk_outputs(mu: ptr<function, Tile>, chunk: Chunk, thread: u32) {
    let feature_thread = thread / COLUMN_THREADS;
    let column_thread = thread % COLUMN_THREADS;
    let heads = chunk.heads;
    let rows = chunk.count * heads;
    workgroupBarrier();
    load_chunk_keys(chunk, thread);
    load_chunk_values(chunk, thread);
    load_chunk_queries(chunk, thread);
    workgroupBarrier();
    map_chunk(chunk, rows, thread);

    // A token sees itself: its key enters the state before its queries read it.
    for (var token = 0u; token < chunk.count; token++) {
        if (chunk.is_new) {
            add_outer(mu, features_of(token, feature_thread), values_of(token, column_thread));
        }
        for (var row = token * heads; row < (token + 1u) * heads; row++) {
            store_partial((row * FEATURE_THREADS + feature_thread) * VALUE_QUADS + column_thread,
                apply(mu, features_of(CHUNK_TOKENS + row, feature_thread)));
        }
    }
    for (var quad = thread; quad < FEATURE_QUADS; quad += THREADS) {
        var sum = nu[quad];
        for (var token = 0u; token < chunk.count; token++) {
            if (chunk.is_new) { sum += feature_chunk[token * FEATURE_QUADS + quad]; }
            for (var row = token * heads; row < (token + 1u) * heads; row++) {
                dot_partial[row * FEATURE_QUADS + quad] =
                    dot(feature_chunk[(CHUNK_TOKENS + row) * FEATURE_QUADS + quad], sum);
            }
        }
        nu[quad] = sum;
    }
    workgroupBarrier();

    leave_rows(chunk, rows, thread);
}

// The sum of weights of a row.
fn sum_of_weights(row: u32) -> f32 {
    var sum = 0.0;
    if (NORMALIZE) {
        for (var quad = 0u; quad < FEATURE_QUADS; quad++) {
            sum += dot_partial[row * FEATURE_QUADS + quad];
        }
    }
    return sum;
}

fn store_partial(at: u32, o: Values) {
    o_partial[at] = o.a;
}

// A quad of one row of q' mu: the shares of all threads along F.
fn sum_of_shares(row: u32, quad: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    for (var share = 0u; share < FEATURE_THREADS; share++) {
        sum += o_partial[(row * FEATURE_THREADS + share) * VALUE_QUADS + quad];
    }
    return sum;
}

// The outputs of a chunk, from the state before it, which moves on to the state after it.

override PARTIAL_LEN: u32 = CHUNK_QUERIES * FEATURE_THREADS * VALUE_QUADS;
override DOT_LEN: u32 = CHUNK_QUERIES * FEATURE_QUADS;

// Shares of q' mu: [rows, F/tile, columns/4], and of q' . nu: [rows, F/4]
var<workgroup> o_partial: array<vec4<f32>, PARTIAL_LEN>;
var<workgroup> dot_partial: array<f32, DOT_LEN>;
// What each row of q' mu is multiplied by: [rows]
var<workgroup> factor: array<f32, CHUNK_QUERIES>;

// A chunk of tokens, and the query heads that read it.
struct Chunk {
    first: u32,        // tokens first .. first + count
    count: u32,
    first_head: u32,   // query heads first_head .. first_head + heads
    heads: u32,
    g: u32,            // key/value head
    value_block: u32,
    is_new: bool,      // false where other heads have brought the tokens into the state
}

fn chunk_outputs(mu: ptr<function, Tile>, chunk: Chunk, thread: u32) {
    let feature_thread = thread / COLUMN_THREADS;
    let column_thread = thread % COLUMN_THREADS;
    let heads = chunk.heads;
    let rows = chunk.count * heads;
    workgroupBarrier();
    load_keys_and_values(chunk.first, chunk.count, chunk.g, chunk.value_block, thread);
    for (var i = thread; i < rows * FEATURE_QUADS; i += THREADS) {
        let quad = i % FEATURE_QUADS;
        let row = o_row(chunk, i / FEATURE_QUADS);
        feature_chunk[CHUNK_TOKENS * FEATURE_QUADS + i] = feature_quad(q_quad(row, quad), quad);
    }
    workgroupBarrier();

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

    for (var row = thread; row < rows; row += THREADS) {
        var sum = 0.0;
        if (NORMALIZE) {
            for (var quad = 0u; quad < FEATURE_QUADS; quad++) {
                sum += dot_partial[row * FEATURE_QUADS + quad];
            }
        }
        factor[row] = factor_of(sum);
    }
    workgroupBarrier();

    for (var i = thread; i < rows * VALUE_QUADS; i += THREADS) {
        let row = i / VALUE_QUADS;
        let quad = i % VALUE_QUADS;
        store_o_quad(o_row(chunk, row), chunk.value_block * VALUE_QUADS + quad,
            sum_of_shares(row, quad) * factor[row]);
    }
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

// Row of q and o, seen as [M H, width], of one of a chunk's query rows.
fn o_row(chunk: Chunk, row: u32) -> u32 {
    return (chunk.first + row / chunk.heads) * params.heads + chunk.first_head + row % chunk.heads;
}

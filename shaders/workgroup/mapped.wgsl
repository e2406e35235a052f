// Features that are functions of a whole row: of its projections, of a sum over it, of products of
// its numbers. Rows come into workgroup memory as they are, and from there into features, those of
// this workgroup's block. (direct.wgsl has the same functions where rows can be mapped on their way.)
//
// memory  rows (K + projections kept + 4) floats

override L2_NORM: bool;
override CHUNK_ROWS: u32;           // CHUNK_TOKENS + CHUNK_QUERIES
override KEY_KEPT_QUADS: u32;       // projections of a key that are kept, in quads
override QUERY_KEPT_QUADS: u32;
override KEPT_QUADS: u32;           // the larger of the two
override KEY_WEIGHT_QUADS: u32;     // a row of weights: all matrices side by side
override QUERY_WEIGHT_QUADS: u32;

override ROW_QUADS: u32 = (KEY_DIM + 3u) / 4u;
override ROW_CHUNK_LEN: u32 = CHUNK_ROWS * ROW_QUADS;
override KEPT_LEN: u32 = CHUNK_ROWS * KEPT_QUADS + 1u;

// For each head of keys and then of queries, W transposed and beneath it b: [K' + 1, P'/4]
@group(0) @binding(9) var<storage, read_write> weights: array<vec4<f32>>;

// Keys of the chunk, then queries, zero from K on: [rows, K/4]
var<workgroup> row_chunk: array<vec4<f32>, ROW_CHUNK_LEN>;
// y = W x + b, where a feature is a function of all of them: [rows, P/4]
var<workgroup> kept: array<vec4<f32>, KEPT_LEN>;
// What all features of a row share, see stats_of: [rows]
var<workgroup> stats: array<vec4<f32>, CHUNK_ROWS>;

struct Row {
    at: u32,         // in workgroup memory
    weights: u32,    // where its head's begin
    is_query: bool,
}

fn load_chunk_keys(chunk: Chunk, thread: u32) {
    for (var i = thread; i < chunk.count * ROW_QUADS; i += THREADS) {
        let quad = i % ROW_QUADS;
        row_chunk[i] = inside(k_quad(kv_row(chunk.first + i / ROW_QUADS, chunk.g), quad), quad, 0.0);
    }
}

fn load_chunk_queries(chunk: Chunk, thread: u32) {
    for (var i = thread; i < chunk.count * chunk.heads * ROW_QUADS; i += THREADS) {
        let quad = i % ROW_QUADS;
        row_chunk[CHUNK_TOKENS * ROW_QUADS + i] =
            inside(q_quad(o_row(chunk, i / ROW_QUADS), quad), quad, 0.0);
    }
}

// From rows to features: the chunk's keys and `queries` of its query rows.
fn map_chunk(chunk: Chunk, queries: u32, thread: u32) {
    let rows = chunk.count + queries;
    if (L2_NORM) {
        for (var i = thread; i < rows; i += THREADS) {
            divide_by_length(row_of(chunk, i));
        }
        workgroupBarrier();
    }
    if (KEPT_QUADS > 0u) {
        for (var i = thread; i < rows * KEPT_QUADS; i += THREADS) {
            let row = row_of(chunk, i / max(KEPT_QUADS, 1u));
            let quad = i % max(KEPT_QUADS, 1u);
            if (quad < select(KEY_KEPT_QUADS, QUERY_KEPT_QUADS, row.is_query)) {
                kept[row.at * KEPT_QUADS + quad] = project(row, quad);
            }
        }
        workgroupBarrier();
    }
    for (var i = thread; i < rows; i += THREADS) {
        let row = row_of(chunk, i);
        stats[row.at] = stats_of(map_of(row), row);
    }
    workgroupBarrier();
    for (var i = thread; i < rows * FEATURE_QUADS; i += THREADS) {
        let row = row_of(chunk, i / FEATURE_QUADS);
        let quad = chunk.feature_block * FEATURE_QUADS + i % FEATURE_QUADS;
        var features = vec4<f32>(0.0);
        if (4u * quad < FEATURE_DIM) {
            features = select(features, phi_quad(map_of(row), row, quad), are_features(quad));
        }
        feature_chunk[row.at * FEATURE_QUADS + i % FEATURE_QUADS] = features;
    }
    workgroupBarrier();
}

// What the logarithms of a query's features are too small by.
fn query_shift(row: u32) -> f32 {
    if (QUERY_MAP == EXP) { return stats[CHUNK_TOKENS + row].x; }
    return 0.0;
}

// Row i of a chunk: its keys, then its queries.
fn row_of(chunk: Chunk, i: u32) -> Row {
    if (i < chunk.count) {
        return Row(i, params.key_weights * chunk.g, false);
    }
    let query = i - chunk.count;
    let head = (chunk.first_head + query % chunk.heads) / params.query_group;
    return Row(CHUNK_TOKENS + query, params.query_begin + params.query_weights * head, true);
}

fn map_of(row: Row) -> u32 {
    if (KEY_MAP == QUERY_MAP) { return KEY_MAP; }
    return select(KEY_MAP, QUERY_MAP, row.is_query);
}

// A quad of numbers of which there are K, and `other` where there are none.
fn inside(x: vec4<f32>, quad: u32, other: f32) -> vec4<f32> {
    let i = vec4<u32>(4u * quad) + vec4<u32>(0u, 1u, 2u, 3u);
    return select(vec4<f32>(other), x, i < vec4<u32>(KEY_DIM));
}

fn x_quad(row: Row, quad: u32) -> vec4<f32> { return row_chunk[row.at * ROW_QUADS + quad]; }
fn y_quad(row: Row, quad: u32) -> vec4<f32> { return kept[row.at * KEPT_QUADS + quad]; }

// Number i of a row, and number p of the projections that it keeps. A caller's own map may ask for
// any number: beyond the last it gets the last.
fn x(row: Row, i: u32) -> f32 {
    let j = min(i, KEY_DIM - 1u);
    return row_chunk[row.at * ROW_QUADS + j / 4u][j % 4u];
}

fn y(row: Row, p: u32) -> f32 {
    let j = min(p, max(4u * KEPT_QUADS, 1u) - 1u);
    return kept[row.at * KEPT_QUADS + j / 4u][j % 4u];
}

fn divide_by_length(row: Row) {
    var sum = 0.0;
    for (var quad = 0u; quad < ROW_QUADS; quad++) { sum += dot(x_quad(row, quad), x_quad(row, quad)); }
    let length = sqrt(sum + 1e-6);
    for (var quad = 0u; quad < ROW_QUADS; quad++) {
        row_chunk[row.at * ROW_QUADS + quad] = x_quad(row, quad) / length;
    }
}

// y = W x + b, four neighbouring numbers of it.
fn project(row: Row, quad: u32) -> vec4<f32> {
    let stride = select(KEY_WEIGHT_QUADS, QUERY_WEIGHT_QUADS, row.is_query);
    var at = row.weights + quad;
    var sum = weights[at + 4u * ROW_QUADS * stride];
    for (var i = 0u; i < ROW_QUADS; i++) {
        let x = x_quad(row, i);
        sum += x.x * weights[at] + x.y * weights[at + stride]
            + x.z * weights[at + 2u * stride] + x.w * weights[at + 3u * stride];
        at += 4u * stride;
    }
    return sum;
}

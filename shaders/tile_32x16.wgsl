// The register tile: the part of mu that one thread holds, 32 features by 16 values.
//
// Registers have no index: an array that is not unrolled to the last access is moved to
// memory, and an override cannot size one. So a tile has its own file, and its blocks
// have names. tile_16x4.wgsl says the same for another size.

const TILE_FEATURE_QUADS: u32 = 8u;
const TILE_VALUE_QUADS: u32 = 4u;

// The tile's features of one row of phi(k) or phi(q), and its values of one row of v or o.
struct Features { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>, e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32> }
struct Values { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// Four features by 16 values. A column of a matrix belongs to a feature, a row to a value.
struct Strip { a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32> }
struct Tile { a: Strip, b: Strip, c: Strip, d: Strip, e: Strip, f: Strip, g: Strip, h: Strip }

fn load_features(at: u32) -> Features {
    return Features(
        feature_chunk[at],
        feature_chunk[at + 1u],
        feature_chunk[at + 2u],
        feature_chunk[at + 3u],
        feature_chunk[at + 4u],
        feature_chunk[at + 5u],
        feature_chunk[at + 6u],
        feature_chunk[at + 7u],
    );
}

fn load_values(at: u32) -> Values {
    return Values(
        value_chunk[at],
        value_chunk[at + 1u * COLUMN_THREADS],
        value_chunk[at + 2u * COLUMN_THREADS],
        value_chunk[at + 3u * COLUMN_THREADS],
    );
}

fn outer(k: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(k.x * v, k.y * v, k.z * v, k.w * v);
}

fn strip_add(strip: Strip, k: vec4<f32>, v: Values) -> Strip {
    return Strip(strip.a + outer(k, v.a), strip.b + outer(k, v.b), strip.c + outer(k, v.c), strip.d + outer(k, v.d));
}

// mu += k^T v
fn add_outer(mu: ptr<function, Tile>, k: Features, v: Values) {
    (*mu).a = strip_add((*mu).a, k.a, v);
    (*mu).b = strip_add((*mu).b, k.b, v);
    (*mu).c = strip_add((*mu).c, k.c, v);
    (*mu).d = strip_add((*mu).d, k.d, v);
    (*mu).e = strip_add((*mu).e, k.e, v);
    (*mu).f = strip_add((*mu).f, k.f, v);
    (*mu).g = strip_add((*mu).g, k.g, v);
    (*mu).h = strip_add((*mu).h, k.h, v);
}

// q mu, over this tile's features
fn apply(mu: ptr<function, Tile>, q: Features) -> Values {
    return Values(
        (*mu).a.a * q.a + (*mu).b.a * q.b + (*mu).c.a * q.c + (*mu).d.a * q.d
            + (*mu).e.a * q.e + (*mu).f.a * q.f + (*mu).g.a * q.g + (*mu).h.a * q.h,
        (*mu).a.b * q.a + (*mu).b.b * q.b + (*mu).c.b * q.c + (*mu).d.b * q.d
            + (*mu).e.b * q.e + (*mu).f.b * q.f + (*mu).g.b * q.g + (*mu).h.b * q.h,
        (*mu).a.c * q.a + (*mu).b.c * q.b + (*mu).c.c * q.c + (*mu).d.c * q.d
            + (*mu).e.c * q.e + (*mu).f.c * q.f + (*mu).g.c * q.g + (*mu).h.c * q.h,
        (*mu).a.d * q.a + (*mu).b.d * q.b + (*mu).c.d * q.c + (*mu).d.d * q.d
            + (*mu).e.d * q.e + (*mu).f.d * q.f + (*mu).g.d * q.g + (*mu).h.d * q.h,
    );
}

// The rows e_first, e_first+1, .. of the unit matrix as features, in the place of keys.
fn load_unit_features(first: u32, count: u32, thread: u32) {
    for (var i = thread; i < count * FEATURE_QUADS; i += THREADS) {
        let feature = vec4<u32>(4u * (i % FEATURE_QUADS)) + vec4<u32>(0u, 1u, 2u, 3u);
        let is_one = feature == vec4<u32>(first + i / FEATURE_QUADS);
        feature_chunk[i] = select(vec4<f32>(0.0), vec4<f32>(1.0), is_one);
    }
}

// A tile has 128 quads, and a memory access for each, written out, takes software drivers
// many seconds to compile. So a state comes in and goes out by the way of tokens, which is
// exact: row f of mu enters as a token with features e_f and values mu_f.
fn start_tile(state: u32, value_block: u32, thread: u32) -> Tile {
    var mu = Tile();
    if (params.start == START_ZERO) {
        return mu;
    }
    for (var first = 0u; first < KEY_DIM; first += CHUNK_TOKENS) {
        let count = min(CHUNK_TOKENS, KEY_DIM - first);
        workgroupBarrier();
        load_unit_features(first, count, thread);
        for (var i = thread; i < count * VALUE_QUADS; i += THREADS) {
            let feature = first + i / VALUE_QUADS;
            let quad = value_block * VALUE_QUADS + i % VALUE_QUADS;
            value_chunk[i] = start_mu_quad(state * KEY_DIM + feature, feature, quad);
        }
        workgroupBarrier();
        for (var row = 0u; row < count; row++) {
            add_outer(&mu, features_of(row, thread / COLUMN_THREADS),
                values_of(row, thread % COLUMN_THREADS));
        }
    }
    return mu;
}

// Row f of mu leaves as the output of a query with features e_f.
fn store_tile(mu: ptr<function, Tile>, state: u32, value_block: u32, thread: u32) {
    let feature_thread = thread / COLUMN_THREADS;
    let rows = min(CHUNK_TOKENS, CHUNK_QUERIES);
    for (var first = 0u; first < KEY_DIM; first += rows) {
        let count = min(rows, KEY_DIM - first);
        workgroupBarrier();
        load_unit_features(first, count, thread);
        workgroupBarrier();
        for (var row = 0u; row < count; row++) {
            store_partial((row * FEATURE_THREADS + feature_thread) * VALUE_QUADS + thread % COLUMN_THREADS,
                apply(mu, features_of(row, feature_thread)));
        }
        workgroupBarrier();
        for (var i = thread; i < count * VALUE_QUADS; i += THREADS) {
            store_end_mu_quad(state * KEY_DIM + first + i / VALUE_QUADS,
                value_block * VALUE_QUADS + i % VALUE_QUADS,
                sum_of_shares(i / VALUE_QUADS, i % VALUE_QUADS));
        }
    }
}

fn store_partial(at: u32, o: Values) {
    o_partial[at] = o.a;
    o_partial[at + 1u * COLUMN_THREADS] = o.b;
    o_partial[at + 2u * COLUMN_THREADS] = o.c;
    o_partial[at + 3u * COLUMN_THREADS] = o.d;
}

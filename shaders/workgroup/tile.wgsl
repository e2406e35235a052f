// The register tile: 16 features by 4 values of mu in each thread of a workgroup.
//
// Registers have no index: an array that is not unrolled to the last access is moved to
// memory, and an override cannot size one. So the parts of a tile have names.

const TILE_FEATURE_QUADS: u32 = 4u;
const TILE_VALUE_QUADS: u32 = 1u;

// The tile's features of one row of phi(k) or phi(q), and its values of one row of v or o.
struct Features { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }
struct Values { a: vec4<f32> }

// Four features by 4 values. A column of a matrix belongs to a feature, a row to a value.
struct Strip { a: mat4x4<f32> }
struct Tile { a: Strip, b: Strip, c: Strip, d: Strip }

fn load_features(at: u32) -> Features {
    return Features(
        feature_chunk[at],
        feature_chunk[at + 1u],
        feature_chunk[at + 2u],
        feature_chunk[at + 3u],
    );
}

fn load_values(at: u32) -> Values {
    return Values(
        value_chunk[at],
    );
}

fn outer(k: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(k.x * v, k.y * v, k.z * v, k.w * v);
}

// mu += k^T v
fn add_outer(mu: ptr<function, Tile>, k: Features, v: Values) {
    (*mu).a.a += outer(k.a, v.a);
    (*mu).b.a += outer(k.b, v.a);
    (*mu).c.a += outer(k.c, v.a);
    (*mu).d.a += outer(k.d, v.a);
}

// q mu, over this tile's features
fn apply(mu: ptr<function, Tile>, q: Features) -> Values {
    return Values(
        (*mu).a.a * q.a + (*mu).b.a * q.b + (*mu).c.a * q.c + (*mu).d.a * q.d,
    );
}

fn start_tile(state: StateAt, feature_block: u32, value_block: u32, thread: u32) -> Tile {
    let feature_quad =
        feature_block * FEATURE_QUADS + thread / COLUMN_THREADS * TILE_FEATURE_QUADS;
    let value_quad = value_block * VALUE_QUADS + thread % COLUMN_THREADS;
    return Tile(
        Strip(start_block(state, feature_quad, value_quad)),
        Strip(start_block(state, feature_quad + 1u, value_quad)),
        Strip(start_block(state, feature_quad + 2u, value_quad)),
        Strip(start_block(state, feature_quad + 3u, value_quad)),
    );
}

fn store_tile(
    mu: ptr<function, Tile>,
    state: StateAt,
    feature_block: u32,
    value_block: u32,
    thread: u32,
) {
    let feature_quad =
        feature_block * FEATURE_QUADS + thread / COLUMN_THREADS * TILE_FEATURE_QUADS;
    let value_quad = value_block * VALUE_QUADS + thread % COLUMN_THREADS;
    store_end_block((*mu).a.a, state, feature_quad, value_quad);
    store_end_block((*mu).b.a, state, feature_quad + 1u, value_quad);
    store_end_block((*mu).c.a, state, feature_quad + 2u, value_quad);
    store_end_block((*mu).d.a, state, feature_quad + 3u, value_quad);
}

// Four rows of a state, features 4 feature_quad .. + 3, of one quad of values.
fn start_block(state: StateAt, feature_quad: u32, value_quad: u32) -> mat4x4<f32> {
    let feature = 4u * feature_quad;
    return mat4x4<f32>(
        start_mu_quad(state, feature, value_quad),
        start_mu_quad(state, feature + 1u, value_quad),
        start_mu_quad(state, feature + 2u, value_quad),
        start_mu_quad(state, feature + 3u, value_quad),
    );
}

fn store_end_block(block: mat4x4<f32>, state: StateAt, feature_quad: u32, value_quad: u32) {
    let feature = 4u * feature_quad;
    if (feature < FEATURE_DIM) { store_end_mu_quad(state, feature, value_quad, block[0]); }
    if (feature + 1u < FEATURE_DIM) { store_end_mu_quad(state, feature + 1u, value_quad, block[1]); }
    if (feature + 2u < FEATURE_DIM) { store_end_mu_quad(state, feature + 2u, value_quad, block[2]); }
    if (feature + 3u < FEATURE_DIM) { store_end_mu_quad(state, feature + 3u, value_quad, block[3]); }
}

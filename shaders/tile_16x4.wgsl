// The register tile: the part of mu that one thread holds, 16 features by 4 values.
//
// Registers have no index: an array that is not unrolled to the last access is moved to
// memory, and an override cannot size one. So a tile has its own file, and its blocks
// have names. tile_32x16.wgsl says the same for another size.

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

fn start_tile(state: u32, feature_quad: u32, value_quad: u32) -> Tile {
    return Tile(
        Strip(start_block(state, feature_quad, value_quad)),
        Strip(start_block(state, feature_quad + 1u, value_quad)),
        Strip(start_block(state, feature_quad + 2u, value_quad)),
        Strip(start_block(state, feature_quad + 3u, value_quad)),
    );
}

fn store_tile(mu: ptr<function, Tile>, state: u32, feature_quad: u32, value_quad: u32) {
    store_end_block((*mu).a.a, state, feature_quad, value_quad);
    store_end_block((*mu).b.a, state, feature_quad + 1u, value_quad);
    store_end_block((*mu).c.a, state, feature_quad + 2u, value_quad);
    store_end_block((*mu).d.a, state, feature_quad + 3u, value_quad);
}

fn store_partial(at: u32, o: Values) {
    o_partial[at] = o.a;
}

// The tile of mu that a thread holds: ROWS features by COLUMNS values, in registers. Every loop
// over a tile is unrolled, since a compiler keeps an array in registers where all of its indices
// are known.

import constants::{COLUMNS_VEC4, ROWS_VEC4, TILE_LEN};

alias Tile = array<vec4<f32>, TILE_LEN>;      // [ROWS, COLUMNS/4]
alias Key = array<vec4<f32>, ROWS_VEC4>;      // features of a row of phi(k) or phi(q)
alias Value = array<vec4<f32>, COLUMNS_VEC4>; // values of a row of v or o

// mu += key^T value
fn add_outer(mu: ptr<function, Tile>, key: Key, value: Value) {
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        @unroll
        for (var r = 0u; r < ROWS_VEC4; r++) {
            (*mu)[(4u * r) * COLUMNS_VEC4 + c] += key[r].x * value[c];
            (*mu)[(4u * r + 1u) * COLUMNS_VEC4 + c] += key[r].y * value[c];
            (*mu)[(4u * r + 2u) * COLUMNS_VEC4 + c] += key[r].z * value[c];
            (*mu)[(4u * r + 3u) * COLUMNS_VEC4 + c] += key[r].w * value[c];
        }
    }
}

// query mu, over the rows of this tile
fn apply(mu: ptr<function, Tile>, query: Key) -> Value {
    // Two chains of multiply-adds: one would wait for itself, more take additions of their own.
    var o = Value();
    var other = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) {
        @unroll
        for (var r = 0u; r < ROWS_VEC4; r++) {
            o[c] += query[r].x * (*mu)[(4u * r) * COLUMNS_VEC4 + c];
            other[c] += query[r].y * (*mu)[(4u * r + 1u) * COLUMNS_VEC4 + c];
            o[c] += query[r].z * (*mu)[(4u * r + 2u) * COLUMNS_VEC4 + c];
            other[c] += query[r].w * (*mu)[(4u * r + 3u) * COLUMNS_VEC4 + c];
        }
        o[c] += other[c];
    }
    return o;
}

// implements: factor
//
// A decay of all rows multiplies a factor that stands beside the tile,
//
//     state = (1 + less_1) tile
//
// so that a token costs a few operations for what it adds and what is read, and not one for each
// element of the tile. The factor is kept as what it is less 1, with all digits of slow decays.

import constants::{COLUMNS_VEC4, HAS_DECAY, TILE_LEN};
import tile::{Key, Tile, Value, apply};

struct Factor { less_1: f32 }

// What enters the tile where a value enters the state.
fn scaled(factor: ptr<function, Factor>, value: Value) -> Value {
    if (!HAS_DECAY) { return value; }
    let kept = 1.0 + (*factor).less_1;
    let about = 1.0 / kept;
    // A quotient may be off by some last digits.
    let inverse = about + about * (1.0 - kept * about);
    var scaled = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) { scaled[c] = inverse * value[c]; }
    return scaled;
}

// query mu, over the rows of this tile
fn read_state(mu: ptr<function, Tile>, factor: ptr<function, Factor>, query: Key) -> Value {
    var o = apply(mu, query);
    if (!HAS_DECAY) { return o; }
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) { o[c] *= 1.0 + (*factor).less_1; }
    return o;
}

// Before the tile is stored.
fn settle(mu: ptr<function, Tile>, factor: ptr<function, Factor>) {
    if (!HAS_DECAY) { return; }
    @unroll
    for (var i = 0u; i < TILE_LEN; i++) { (*mu)[i] *= 1.0 + (*factor).less_1; }
    (*factor).less_1 = 0.0;
}

// implements: tile_io
//
// A tile between registers and a state, a row at a time in a loop: a state is loaded as F tokens
// with the unit vectors e_f as keys and the rows mu_f as values, and stored as what F queries e_f
// read. Both are exact. A CPU adapter compiles an access for each vec4 of a large tile longer than
// all the rest.

import constants::{COLUMNS_VEC4, FEATURE_DIM, INITIAL_STATE, ROWS_VEC4, STATE_ZERO};
import lane::{Lane};
import states/offset::{StateOffset};
import states::{load_mu, store_mu};
import tile::{Key, Tile, Value, add_outer, apply};
import work_item::{WorkItem};

fn load_tile(mu: ptr<function, Tile>, at: StateOffset, item: WorkItem, lane: Lane) {
    if (INITIAL_STATE == STATE_ZERO) { return; }
    let c4 = item.value_block * COLUMNS_VEC4;
    for (var feature = 0u; feature < FEATURE_DIM; feature++) {
        var row = Value();
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) { row[c] = load_mu(at, feature, c4 + c); }
        add_outer(mu, unit_key(feature), row);
    }
}

fn store_tile(mu: ptr<function, Tile>, at: StateOffset, item: WorkItem, lane: Lane) {
    let c4 = item.value_block * COLUMNS_VEC4;
    for (var feature = 0u; feature < FEATURE_DIM; feature++) {
        let row = apply(mu, unit_key(feature));
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) { store_mu(at, feature, c4 + c, row[c]); }
    }
}

fn unit_key(feature: u32) -> Key {
    var key = Key();
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) {
        let is_one = vec4<u32>(4u * r, 4u * r + 1u, 4u * r + 2u, 4u * r + 3u) == vec4<u32>(feature);
        key[r] = select(vec4<f32>(0.0), vec4<f32>(1.0), is_one);
    }
    return key;
}

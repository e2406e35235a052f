// implements: tile_io
//
// A tile between registers and a state, with an access for each of its vec4s.

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, COLUMNS_VEC4, COLUMN_THREADS, ROWS};
import lane::{Lane};
import states/offset::{StateOffset};
import states::{load_mu, store_mu};
import tile::{Tile};
import work_item::{WorkItem};

fn load_tile(mu: ptr<function, Tile>, at: StateOffset, item: WorkItem, lane: Lane) {
    let feature = 4u * (item.feature_block * BLOCK_VEC4 + lane.f4);
    let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + lane.c4;
    @unroll
    for (var r = 0u; r < ROWS; r++) {
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) {
            (*mu)[r * COLUMNS_VEC4 + c] = load_mu(at, feature + r, c4 + c * COLUMN_THREADS);
        }
    }
}

fn store_tile(mu: ptr<function, Tile>, at: StateOffset, item: WorkItem, lane: Lane) {
    let feature = 4u * (item.feature_block * BLOCK_VEC4 + lane.f4);
    let c4 = item.value_block * BLOCK_COLUMNS_VEC4 + lane.c4;
    @unroll
    for (var r = 0u; r < ROWS; r++) {
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) {
            store_mu(at, feature + r, c4 + c * COLUMN_THREADS, (*mu)[r * COLUMNS_VEC4 + c]);
        }
    }
}

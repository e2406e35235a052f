// implements: factor
//
// A tile is the state itself.

import tile::{Key, Tile, Value, apply};

struct Factor { unused: u32 }

// What enters the tile where a value enters the state.
fn scaled(factor: ptr<function, Factor>, value: Value) -> Value { return value; }

// query mu, over the rows of this tile
fn read_state(mu: ptr<function, Tile>, factor: ptr<function, Factor>, query: Key) -> Value {
    return apply(mu, query);
}

// Before the tile is stored.
fn settle(mu: ptr<function, Tile>, factor: ptr<function, Factor>) {}

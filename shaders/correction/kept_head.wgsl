// implements: kept
//
// What decays leave of a state from before the chunk: a factor for all of its rows.

import constants::{COLUMNS_VEC4, HAS_DECAY};
import factor::{Factor, read_state};
import gates::{load_decay};
import tile::{Key, Tile, Value};

struct Kept { of_head: f32 }

fn all_kept() -> Kept { return Kept(1.0); }

fn decay_kept(kept: Kept, row: u32, f4: u32) -> Kept {
    if (!HAS_DECAY) { return kept; }
    return Kept(kept.of_head + load_decay(row, f4).of_head * kept.of_head);
}

// key A mu
fn recalled_by(
    mu: ptr<function, Tile>,
    factor: ptr<function, Factor>,
    key: Key,
    kept: Kept,
) -> Value {
    var recalled = read_state(mu, factor, key);
    if (!HAS_DECAY) { return recalled; }
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) { recalled[c] *= kept.of_head; }
    return recalled;
}

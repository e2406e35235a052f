// implements: kept
//
// What decays leave of a state from before the chunk: a factor for each of a thread's rows.

import constants::{ROWS_VEC4};
import factor::{Factor, read_state};
import gates::{decay_nu};
import tile::{Key, Tile, Value};

struct Kept { of_rows: Key }

fn all_kept() -> Kept {
    var kept: Kept;
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { kept.of_rows[r] = vec4<f32>(1.0); }
    return kept;
}

fn decay_kept(before: Kept, row: u32, f4: u32) -> Kept {
    var kept: Kept;
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { kept.of_rows[r] = decay_nu(before.of_rows[r], row, f4 + r); }
    return kept;
}

// key A mu
fn recalled_by(
    mu: ptr<function, Tile>,
    factor: ptr<function, Factor>,
    key: Key,
    kept: Kept,
) -> Value {
    var decayed: Key;
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) { decayed[r] = key[r] * kept.of_rows[r]; }
    return read_state(mu, factor, decayed);
}

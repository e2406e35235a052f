// implements: rule
//
// The rules `delta` and `gated-delta`, where a thread has all features of its columns:
//
//     mu = exp(decay_i) mu_{i-1}      u_i = beta_i (v_i - phi(k_i) mu)      mu_i = mu + phi(k_i)^T u_i

import constants::{COLUMNS_VEC4, HAS_DECAY};
import factor::{Factor, read_state, scaled};
import gates::{load_beta, load_decay};
import state_decay::{decay_state};
import tile::{Key, Tile, Value, add_outer};

// A token enters this thread's tile of the state. `row` and `f4` are those of its gates.
fn update(
    mu: ptr<function, Tile>,
    factor: ptr<function, Factor>,
    row: u32,
    f4: u32,
    key: Key,
    value: Value,
) {
    if (HAS_DECAY) { decay_state(mu, factor, load_decay(row, f4)); }
    let beta = load_beta(row);
    let recalled = read_state(mu, factor, key);
    var corrected = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) { corrected[c] = beta * (value[c] - recalled[c]); }
    add_outer(mu, key, scaled(factor, corrected));
}

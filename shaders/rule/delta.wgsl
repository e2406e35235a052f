// implements: rule
//
// The rules `delta` and `gated-delta`, where a thread has all features of its columns:
//
//     mu = exp(decay_i) mu_{i-1}      u_i = beta_i (v_i - phi(k_i) mu)      mu_i = mu + phi(k_i)^T u_i

import constants::{COLUMNS_VEC4, HAS_DECAY};
import gates::{load_beta, load_decay};
import rule/decay::{decay_tile};
import tile::{Key, Tile, Value, add_outer, apply};

// A token enters this thread's tile of the state. `row` and `f4` are those of its gates.
fn update(mu: ptr<function, Tile>, row: u32, f4: u32, key: Key, value: Value) {
    if (HAS_DECAY) { decay_tile(mu, load_decay(row, f4)); }
    let beta = load_beta(row);
    let recalled = apply(mu, key);
    var corrected = Value();
    @unroll
    for (var c = 0u; c < COLUMNS_VEC4; c++) { corrected[c] = beta * (value[c] - recalled[c]); }
    add_outer(mu, key, corrected);
}

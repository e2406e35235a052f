// implements: rule
//
// The rule `gated`:  mu_i = exp(decay_i) mu_{i-1} + phi(k_i)^T v_i
//
// And the delta rules, where correction/chunk has made of v what is to be added.

import constants::{HAS_DECAY};
import factor::{Factor, scaled};
import gates::{load_decay};
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
    add_outer(mu, key, scaled(factor, value));
}

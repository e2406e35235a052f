// implements: rule
//
// The rule `linear`:  mu_i = mu_{i-1} + phi(k_i)^T v_i

import factor::{Factor};
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
    add_outer(mu, key, value);
}

// implements: rule
//
// The rule `linear`:  mu_i = mu_{i-1} + phi(k_i)^T v_i

import tile::{Key, Tile, add_outer};

// A token enters values 4 c .. + 3 of this thread's tile of the state.
fn update(mu: ptr<function, Tile>, c: u32, key: Key, value: vec4<f32>) {
    add_outer(mu, c, key, value);
}

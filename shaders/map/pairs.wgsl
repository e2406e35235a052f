// The pairs i < j of K elements, row by row of the upper triangle, as TAYLOR has its products.

import constants::{KEY_DIM};

// Row i begins at i (2 K - 1 - i) / 2. The root is near enough for i to be off by one at most.
fn pair_at(pair: u32) -> vec2<u32> {
    let width = 2u * KEY_DIM - 1u;
    let root = sqrt(f32(width * width - 8u * pair));
    var i = min(u32(0.5 * max(f32(width) - root, 0.0)), max(KEY_DIM, 2u) - 2u);
    if (i * (width - i) / 2u > pair) { i -= 1u; }
    if ((i + 1u) * (width - i - 1u) / 2u <= pair) { i += 1u; }
    return vec2<u32>(i, i + 1u + pair - i * (width - i) / 2u);
}

fn pair_of(i: u32, j: u32) -> u32 { return i * (2u * KEY_DIM - 1u - i) / 2u + j - i - 1u; }

// The weights phi(q_i) . nu_i of a chunk's query rows, over this work item's feature block, as
// products of four features each.

import constants::{BLOCK_VEC4, CHUNK_QUERIES, NORMALIZE};

// A row begins at a multiple of 16 bytes, and neighbours in other banks.
const PRODUCT_ROW: u32 = (BLOCK_VEC4 + 7u) / 4u * 4u;
const PRODUCT_LEN: u32 = select(1u, CHUNK_QUERIES * PRODUCT_ROW, NORMALIZE);

var<workgroup> products: array<f32, PRODUCT_LEN>;  // [queries, F/4]

fn row_weight(row: u32) -> f32 {
    if (!NORMALIZE) { return 0.0; }
    let begin = row * PRODUCT_ROW;
    var f4 = 0u;
    var sums = vec4<f32>(0.0);
    for (; f4 + 4u <= BLOCK_VEC4; f4 += 4u) {
        let at = begin + f4;
        sums += vec4<f32>(products[at], products[at + 1u], products[at + 2u], products[at + 3u]);
    }
    var weight = (sums.x + sums.y) + (sums.z + sums.w);
    for (; f4 < BLOCK_VEC4; f4++) { weight += products[begin + f4]; }
    return weight;
}

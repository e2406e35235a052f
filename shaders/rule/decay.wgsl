// implements: state_decay
//
// A state decays by every element of its tile.

import constants::{COLUMNS_VEC4, ROWS_VEC4};
import factor/none::{Factor};
import gates::{Decay, decay_vec4};
import tile::{Tile};

// mu += m mu, which is exp(decay) mu
fn decay_state(mu: ptr<function, Tile>, factor: ptr<function, Factor>, decay: Decay) {
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) {
        let m = decay_vec4(decay, r);
        @unroll
        for (var c = 0u; c < COLUMNS_VEC4; c++) {
            (*mu)[(4u * r) * COLUMNS_VEC4 + c] += m.x * (*mu)[(4u * r) * COLUMNS_VEC4 + c];
            (*mu)[(4u * r + 1u) * COLUMNS_VEC4 + c] += m.y * (*mu)[(4u * r + 1u) * COLUMNS_VEC4 + c];
            (*mu)[(4u * r + 2u) * COLUMNS_VEC4 + c] += m.z * (*mu)[(4u * r + 2u) * COLUMNS_VEC4 + c];
            (*mu)[(4u * r + 3u) * COLUMNS_VEC4 + c] += m.w * (*mu)[(4u * r + 3u) * COLUMNS_VEC4 + c];
        }
    }
}

// implements: state_decay
//
// A state decays by its factor.

import factor/head::{Factor, settle};
import gates::{Decay};
import tile::{Tile};

// Factors from a quarter to four are as good as 1: what is divided by them and multiplied leaves
// f32 no earlier than the state does, but for two powers of two.
const LEAST_LESS_1: f32 = -0.75;
const LARGEST_LESS_1: f32 = 3.0;

fn decay_state(mu: ptr<function, Tile>, factor: ptr<function, Factor>, decay: Decay) {
    let m = decay.of_head;
    let total = (*factor).less_1;
    // (1 + m) (1 + m') = 1 + m + m' (1 + m). What forgets everything leaves nothing for rounding.
    (*factor).less_1 = select(total + m * (1.0 + total), -1.0, m == -1.0);
    if ((*factor).less_1 < LEAST_LESS_1 || (*factor).less_1 > LARGEST_LESS_1) { settle(mu, factor); }
}

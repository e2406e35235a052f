// Offsets of a value head's mu [F,V] and nu [F] in a buffer of states, in its elements. The state
// of a sequence is mu [E,F,V] and then, where o is normalised, nu [E,F].

import constants::{FEATURE_DIM, NORMALIZE, VALUE_DIM};
import params::{params};
import states::{ELEMENT_LEN};

struct StateOffset { mu: u32, nu: u32 }

fn state_offset(state: u32, e: u32) -> StateOffset {
    let mu_len = FEATURE_DIM * VALUE_DIM / ELEMENT_LEN;
    let begin = state * state_len();
    let nu = begin + params.value_heads * mu_len + e * (FEATURE_DIM / ELEMENT_LEN);
    return StateOffset(begin + e * mu_len, nu);
}

// Elements of the state of a sequence.
fn state_len() -> u32 {
    let nu_len = select(0u, FEATURE_DIM, NORMALIZE);
    return params.value_heads * ((FEATURE_DIM * VALUE_DIM + nu_len) / ELEMENT_LEN);
}

// The states of a backward pass, in scratch: initial states [N,state], gradients by final states
// [N,state], which become those by initial states, and the memory of work items.

import constants::{FEATURE_DIM, NORMALIZE, VALUE_DIM};
import params::{params};

@group(0) @binding(22) var<storage, read_write> states: array<f32>;

const MU_LEN: u32 = FEATURE_DIM * VALUE_DIM;
const STATE_LEN: u32 = MU_LEN + select(0u, FEATURE_DIM, NORMALIZE);

// Elements of the states of all sequences.
fn states_len() -> u32 { return params.sequences * params.value_heads * STATE_LEN; }

// The states of a backward pass, in scratch: initial states [N,state], gradients by final states
// [N,state], which become those by initial states, and the memory of work items.
// src/backward/plan.rs counts it as these functions do.

import constants::{FEATURE_DIM, NORMALIZE, VALUE_DIM};
import params::{params};

@group(0) @binding(22) var<storage, read_write> states: array<f32>;

const MU_LEN: u32 = FEATURE_DIM * VALUE_DIM;
const NU_LEN: u32 = select(0u, FEATURE_DIM, NORMALIZE);
const STATE_LEN: u32 = MU_LEN + NU_LEN;

// Elements of the states of all sequences.
fn states_len() -> u32 { return params.sequences * params.value_heads * STATE_LEN; }

// Memory of a value head of a sequence: mu before each block of tokens and after each token of one;
// v, less what a delta rule recalls, of these, and du; and then what value blocks have each for
// itself.
fn head_memory() -> u32 {
    return (params.segments + params.segment_len) * MU_LEN + (params.segment_len + 1u) * VALUE_DIM
        + params.value_blocks * block_memory();
}

// Memory of a value block: its part of the gradient by nu; nu as mu; and two rows of features.
fn block_memory() -> u32 {
    return (1u + params.segments + params.segment_len) * NU_LEN + 2u * FEATURE_DIM;
}

// The memory of value block 0 of a value head of a sequence, whose number among all is given; those
// of others follow.
fn block_memories(head: u32) -> u32 {
    return 2u * states_len() + (head + 1u) * head_memory() - params.value_blocks * block_memory();
}

// The rows and states of the passes of sums, in scratch, whose widths are whole vec4s. A row of
// values, and of gradients by them, has one more column where o is divided, and a state is M = [mu
// | nu].

import constants::{FEATURE_DIM, NORMALIZE, VALUE_DIM};
import params::{params};

const PASS_COLUMNS: u32 = VALUE_DIM + select(0u, 1u, NORMALIZE);
const PASS_VALUE_VEC4: u32 = (PASS_COLUMNS + 3u) / 4u;
const PASS_KEY_VEC4: u32 = (FEATURE_DIM + 3u) / 4u;
const PASS_STATE_LEN: u32 = 16u * PASS_KEY_VEC4 * PASS_VALUE_VEC4;

// M of value heads [N,E,F,V] and transposed [N,E,V,F], and the gradients by M of output heads, in
// reversed order of the sequences, [N,max(H,E),F,V] and transposed. Each begins at a multiple of 64
// elements, where a binding may. src/backward/plan/sums.rs counts them as these functions do.
@group(0) @binding(17) var<storage, read_write> pass_states: array<f32>;

fn pass_states_len(heads: u32) -> u32 { return (params.sequences * heads * PASS_STATE_LEN + 63u) / 64u * 64u; }

fn gradients_begin() -> u32 { return 2u * pass_states_len(params.value_heads); }

// A head of a sequence in the gradients, whose sequences are in reversed order.
fn gradient_state(n: u32, h: u32) -> u32 { return (params.sequences - 1u - n) * params.output_heads + h; }

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
// reversed order of the sequences, [N,max(H,E),F,V] and transposed; with a delta rule also zeros
// [N,E,V,F], the gradients by M of no output head. Each begins at a multiple of 64 elements, where a
// binding may. src/backward/plan/rows.rs counts them as these functions do.
@group(0) @binding(17) var<storage, read_write> pass_states: array<f32>;

fn pass_states_len(heads: u32) -> u32 { return (params.sequences * heads * PASS_STATE_LEN + 63u) / 64u * 64u; }

fn gradients_begin() -> u32 { return 2u * pass_states_len(params.value_heads); }

fn zeros_begin() -> u32 { return gradients_begin() + 2u * pass_states_len(params.output_heads); }

// A head of a sequence in the gradients, whose sequences are in reversed order.
fn gradient_state(n: u32, h: u32) -> u32 { return (params.sequences - 1u - n) * params.output_heads + h; }

// The keys of a delta rule recall what they replace: they read as queries do, and so are one more
// output head of each value head, whose rows lie behind those of the output heads, each tensor from a
// multiple of 64 elements on. Where they begin, in vec4s: the gradients by what they recall, behind
// dy; those by the keys that are written, and by those that read, behind those of output heads.
fn recalled_begin() -> u32 { return rows_len(params.output_heads, PASS_VALUE_VEC4); }

fn of_recalled_keys_begin() -> u32 { return rows_len(params.output_heads, PASS_KEY_VEC4); }

fn of_recalling_keys_begin() -> u32 {
    return of_recalled_keys_begin() + rows_len(params.value_heads, PASS_KEY_VEC4);
}

fn rows_len(heads: u32, vec4s: u32) -> u32 { return (params.total_tokens * heads * vec4s + 15u) / 16u * 16u; }

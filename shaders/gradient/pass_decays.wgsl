// The gates that the passes of sums take, of value heads but for one. Each part begins at a multiple
// of 64 elements, where a binding may; src/backward/plan/rows.rs counts them so.
//
//     [T,E]           decays in log space
//     [T,max(H,E)]    those of passes in reversed time, of output heads
//     [T,E]           the same of value heads, and
//     [T,E]           betas, where there are any: 0 in a token of no sequence

import constants::{HAS_DECAY};
import params::{params};

@group(0) @binding(32) var<storage, read_write> pass_decays: array<f32>;

fn part_len(rows: u32) -> u32 { return select(0u, (rows + 63u) / 64u * 64u, HAS_DECAY); }

fn reversed_decays_begin() -> u32 { return part_len(params.total_tokens * params.value_heads); }

fn recalled_decays_begin() -> u32 {
    return reversed_decays_begin() + part_len(params.total_tokens * params.output_heads);
}

fn betas_begin() -> u32 { return recalled_decays_begin() + part_len(params.total_tokens * params.value_heads); }

// The decays that the passes of sums take, in log space: of value heads [T,E], and then those of
// passes in reversed time, of output heads [T,max(H,E)], which begin at a multiple of 64 elements,
// where a binding may. src/backward/plan/sums.rs counts them so.

import params::{params};

@group(0) @binding(32) var<storage, read_write> pass_decays: array<f32>;

fn reversed_decays_begin() -> u32 { return (params.total_tokens * params.value_heads + 63u) / 64u * 64u; }

// The decays that the passes of sums take. A pass in reversed time comes from token i + 1 to token
// i, and so to the decay between them, which is that of token i + 1. Nothing decays before the last
// token of a sequence.
//
//     g_i                in forward time
//     g_(i+1), or 0      in reversed time, in the order of its tokens
//
// reads   decay [E] or [T,E]  gate_weights [E] and [E]  ranges [N + 1]
// writes  pass_decays
// grid    a thread a decay of a value head or of an output head, folded
// memory  none

import constants::{SCAN_THREADS};
import gates/activations::{decay_of};
import gradient/pass_decays::{pass_decays, reversed_decays_begin};
import params::{params, workgroup_index};

// begin, end of each sequence, and the tokens behind the last that passes in reversed time do not
// have
@group(0) @binding(23) var<storage, read_write> ranges: array<vec2<u32>>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_pass_decays(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let rows = params.total_tokens * params.value_heads;
    if (i < rows) {
        pass_decays[i] = decay_of(i, 0u);
        return;
    }
    let t = (i - rows) / params.output_heads;
    let h = (i - rows) % params.output_heads;
    let used = ranges[params.sequences].x;
    if (t >= used) { return; }
    var x = 0.0;
    if (is_followed(t)) { x = decay_of((t + 1u) * params.value_heads + h / params.group, 0u); }
    pass_decays[reversed_decays_begin() + (used - 1u - t) * params.output_heads + h] = x;
}

// True if token t has another one of its sequence behind it.
fn is_followed(t: u32) -> bool {
    // The first sequence that ends behind it.
    var first = 0u;
    var end = params.sequences;
    while (first < end) {
        let n = (first + end) / 2u;
        if (ranges[n].y > t) { end = n; } else { first = n + 1u; }
    }
    return first < params.sequences && t >= ranges[first].x && t + 1u < ranges[first].y;
}

// The decays, and the betas, that the passes of sums take. A pass in reversed time comes from token
// i + 1 to token i, and so to the decay between them, which is that of token i + 1. Nothing decays
// before the last token of a sequence.
//
//     g_i                in forward time
//     g_(i+1), or 0      in reversed time, in the order of its tokens
//
// reads   decay [E] or [T,E]  beta [T,E] or [T,1]  gate_weights [E] and [E]  ranges [N + 1]
// writes  pass_decays
// grid    a thread a decay of a value head or of an output head, or a beta, folded
// memory  none

import constants::{HAS_BETA, HAS_DECAY, SCAN_THREADS};
import gates/activations::{beta_of, decay_of};
import gradient/pass_decays::{betas_begin, pass_decays, recalled_decays_begin, reversed_decays_begin};
import gradient/sequence::{has_sequence, is_followed, ranges};
import params::{params, workgroup_index};

@compute @workgroup_size(SCAN_THREADS)
fn gradient_pass_decays(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    var i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let rows = params.total_tokens * params.value_heads;
    if (HAS_BETA) {
        if (i < rows) {
            var beta = 0.0;
            if (has_sequence(i / params.value_heads)) { beta = beta_of(i); }
            pass_decays[betas_begin() + i] = beta;
            return;
        }
        i -= rows;
    }
    if (!HAS_DECAY) { return; }
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
    if (HAS_BETA && h % params.group == 0u) {
        let at = (used - 1u - t) * params.value_heads + h / params.group;
        pass_decays[recalled_decays_begin() + at] = x;
    }
}

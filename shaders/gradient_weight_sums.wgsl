// Gradients by the weights of the maps: the sums of those of all pieces of the tokens and of all
// heads that have the same weights, in this order.
//
// reads   partials [pieces, E heads of keys and max(H,E) of queries, the weights of a head]
// writes  of_weights, laid out as the weights
// grid    a thread four elements, folded
// memory  none

import constants::{SCAN_THREADS};
import gradient/partials::{partials, partials_begin, pieces};
import gradient/weights::{KEY_HEAD_VEC4, QUERY_HEAD_VEC4};
import params::{params, workgroup_index};

@group(0) @binding(16) var<storage, read_write> of_weights: array<vec4<f32>>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_weight_sums(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let of_keys = select(1u, params.key_heads, params.key_weights > 0u) * KEY_HEAD_VEC4;
    if (i < of_keys) {
        of_weights[i] = by_key_weights(i / max(KEY_HEAD_VEC4, 1u), i % max(KEY_HEAD_VEC4, 1u));
        return;
    }
    let heads = select(1u, params.heads, params.query_weights > 0u);
    if (params.shares_key_weights == 0u && i - of_keys < heads * QUERY_HEAD_VEC4) {
        let at = i - of_keys;
        of_weights[i] = by_query_weights(at / max(QUERY_HEAD_VEC4, 1u), at % max(QUERY_HEAD_VEC4, 1u));
    }
}

// vec4 `at` of the weights of a key head, or of all.
fn by_key_weights(head: u32, at: u32) -> vec4<f32> {
    let heads = select(params.value_heads, params.key_group, params.key_weights > 0u);
    var sum = sum_of(true, head * heads, heads, at);
    if (params.shares_key_weights != 0u && QUERY_HEAD_VEC4 > 0u) {
        sum += sum_of(false, head * heads * params.group, heads * params.group, at);
    }
    return sum;
}

// The same of a query head, or of all.
fn by_query_weights(head: u32, at: u32) -> vec4<f32> {
    let heads = select(params.output_heads, params.query_group, params.query_weights > 0u);
    return sum_of(false, head * heads, heads, at);
}

// After Kahan: `excess` is what rounding added to the sum, and the next term gives it back.
fn sum_of(is_key: bool, first: u32, heads: u32, at: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    var excess = vec4<f32>(0.0);
    for (var piece = 0u; piece < pieces(); piece++) {
        for (var head = first; head < first + heads; head++) {
            let term = partials[partials_begin(is_key, piece, head) + at] - excess;
            let next = sum + term;
            excess = (next - sum) - term;
            sum = next;
        }
    }
    return sum;
}

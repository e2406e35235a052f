// The gradients by the features of keys, summed over the output heads that read a value head.
//
// reads   of_pass_keys [T,max(H,E),PASS_KEY_VEC4]
// writes  keys [T,E,PASS_KEY_VEC4]
// grid    a thread a vec4, folded
// memory  none

import constants::{SCAN_THREADS};
import gradient/passes::{PASS_KEY_VEC4};
import params::{params, workgroup_index};

@group(0) @binding(7) var<storage, read_write> of_pass_keys: array<vec4<f32>>;
@group(0) @binding(18) var<storage, read_write> keys: array<vec4<f32>>;

@compute @workgroup_size(SCAN_THREADS)
fn gradient_group_sums(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = workgroup_index(workgroup) * SCAN_THREADS + thread;
    let row = i / PASS_KEY_VEC4;
    if (row >= params.total_tokens * params.value_heads) { return; }
    // Output heads of a value head follow one another, as value heads of a token do.
    let first = row * params.group * PASS_KEY_VEC4 + i % PASS_KEY_VEC4;
    var sum = vec4<f32>(0.0);
    for (var h = 0u; h < params.group; h++) { sum += of_pass_keys[first + h * PASS_KEY_VEC4]; }
    keys[i] = sum;
}

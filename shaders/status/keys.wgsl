// implements: key_status
//
// The first row of k, in the order of tokens and heads, with a feature that is infinite or NaN.

import params::{params};
import work_item::{WorkItem};

// ~(t G + head) of that row; as long as there is none, what it was before.
@group(0) @binding(17) var<storage, read_write> key_status: atomic<u32>;

// Looks at some features of the key of token t. Other work items have the same keys: the first does
// it.
fn check_key(item: WorkItem, t: u32, features: vec4<f32>) {
    if (item.first_head != item.head * params.group || item.value_block != 0u) { return; }
    // By their bits: a compiler may take it that no number is infinite or NaN.
    let exponents = bitcast<vec4<u32>>(features) & vec4<u32>(0x7F800000u);
    if (all(exponents != vec4<u32>(0x7F800000u))) { return; }
    atomicMax(&key_status, ~(t * params.key_heads + item.key_head));
}

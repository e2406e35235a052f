// Rows of q and k divided by their L2 norms, with flash-linear-attention's eps.
//
// memory  that of matrix/panel

import constants::{BLOCK_VEC4, FEATURE_LOADS, L2_NORM, THREADS};
import map/stabiliser::{is_feature};
import matrix/panel::{panel};

alias Loads = array<vec4<f32>, FEATURE_LOADS>;

// The rows of so many tokens, of which this thread has loaded some elements. Nobody reads panel any
// more; the caller waits before it is written again.
fn divide_by_norms(x: ptr<function, Loads>, tokens: u32, thread: u32) {
    if (!L2_NORM) { return; }
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let i = thread + n * THREADS;
        if (i / BLOCK_VEC4 < tokens) {
            // An element-wise map has as many features as a row has elements.
            let known = select(vec4<f32>(), (*x)[n], is_feature(i % BLOCK_VEC4));
            panel[i] = dot(known, known);
        }
    }
    workgroupBarrier();
    if (thread < tokens) {
        var sum = 0.0;
        for (var f4 = 0u; f4 < BLOCK_VEC4; f4++) { sum += panel[thread * BLOCK_VEC4 + f4]; }
        // In place of the row's first.
        panel[thread * BLOCK_VEC4] = sqrt(sum + 1e-6);
    }
    workgroupBarrier();
    @unroll
    for (var n = 0u; n < FEATURE_LOADS; n++) {
        let row = (thread + n * THREADS) / BLOCK_VEC4;
        if (row < tokens) { (*x)[n] /= panel[row * BLOCK_VEC4]; }
    }
}

// implements: segment_decay
//
// The decays of segments, one for each value head and row of mu, less 1. They are products, token
// by token: where a decay is -inf, a difference of sums would be NaN.

import constants::{FEATURE_DIM, ROWS_VEC4, VALUE_DIM};
import gates::{DECAY_VEC4, Decay, load_decay};
import params::{params};
import states::{Element, ELEMENT_LEN, element_of};
import work_item::{WorkItem};

// [segments, E, DECAY_VEC4]
@group(0) @binding(15) var<storage, read_write> segment_decays: array<vec4<f32>>;

// (1 + m) (1 + m') = 1 + m + m' (1 + m). What forgets everything leaves nothing for rounding.
fn add_decay(decay: ptr<function, Decay>, row: u32, f4: u32) {
    let next = load_decay(row, f4);
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) {
        let m = next.of_rows[r];
        let total = (*decay).of_rows[r];
        (*decay).of_rows[r] = select(total + m * (1.0 + total), vec4<f32>(-1.0), m == vec4<f32>(-1.0));
    }
}

fn store_decay(decay: Decay, item: WorkItem, f4: u32) {
    let begin = (item.segment * params.value_heads + item.head) * DECAY_VEC4;
    @unroll
    for (var r = 0u; r < ROWS_VEC4; r++) {
        if (f4 + r < DECAY_VEC4) { segment_decays[begin + f4 + r] = decay.of_rows[r]; }
    }
}

fn element_decay(segment: u32, element: u32) -> Element {
    let mu_len = FEATURE_DIM * VALUE_DIM / ELEMENT_LEN;
    if (element < params.value_heads * mu_len) {
        let e = element / mu_len;
        let feature = element % mu_len / (VALUE_DIM / ELEMENT_LEN);
        return Element(segment_decays[decay_row(segment, e) + feature / 4u][feature % 4u]);
    }
    let nu_len = FEATURE_DIM / ELEMENT_LEN;
    let in_nu = element - params.value_heads * mu_len;
    let feature = in_nu % nu_len * ELEMENT_LEN;
    return element_of(segment_decays[decay_row(segment, in_nu / nu_len) + feature / 4u], feature % 4u);
}

fn decay_row(segment: u32, e: u32) -> u32 {
    return (segment * params.value_heads + e) * DECAY_VEC4;
}

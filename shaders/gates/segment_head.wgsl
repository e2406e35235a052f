// implements: segment_decay
//
// The decays of segments, one for each value head, less 1. They are products, token by token: where
// a decay is -inf, a difference of sums would be NaN.

import constants::{FEATURE_DIM, VALUE_DIM};
import gates::{Decay, load_decay};
import params::{params};
import states::{Element, ELEMENT_LEN};
import work_item::{WorkItem};

@group(0) @binding(15) var<storage, read_write> segment_decays: array<f32>;  // [segments, E]

// (1 + m) (1 + m') = 1 + m + m' (1 + m). What forgets everything leaves nothing for rounding.
fn add_decay(decay: ptr<function, Decay>, row: u32, f4: u32) {
    let m = load_decay(row, f4).of_head;
    let total = (*decay).of_head;
    (*decay).of_head = select(total + m * (1.0 + total), -1.0, m == -1.0);
}

fn store_decay(decay: Decay, item: WorkItem, f4: u32) {
    if (f4 == 0u) { segment_decays[item.segment * params.value_heads + item.head] = decay.of_head; }
}

fn element_decay(segment: u32, element: u32) -> Element {
    let mu_len = FEATURE_DIM * VALUE_DIM / ELEMENT_LEN;
    let in_nu = element - min(element, params.value_heads * mu_len);
    var e = element / mu_len;
    if (e >= params.value_heads) { e = in_nu / (FEATURE_DIM / ELEMENT_LEN); }
    return Element(segment_decays[segment * params.value_heads + e]);
}

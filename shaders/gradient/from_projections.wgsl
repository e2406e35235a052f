// implements: row_gradient
//
// Maps with weights, of keys, of queries or of both: the gradients by rows follow from those by
// projections, dx = W^T dy, with the weights of each head that reads the row.

import gradient/argument::{Elements, PROJECTION_ROW, RowIndex, argument_vec4, elements, elements_of};
import gradient/argument::{projection_row, projections, row_norms, weight_vec4};
import gradient/weights::{weights, weights_begin};

struct GradientRow {
    x: Elements,
    is_zero: bool,
    first: RowIndex,
    heads: u32,
}

// Of the heads that read a row, of which the first is given.
fn gradient_row(first: RowIndex, heads: u32) -> GradientRow {
    let begin = projection_row(first);
    var is_zero = true;
    for (var head = 0u; head < heads; head++) {
        for (var a4 = 0u; a4 < argument_vec4(first.is_key); a4++) {
            let dy = projections[begin + head * PROJECTION_ROW + a4];
            is_zero = is_zero && all(dy == vec4<f32>(0.0));
        }
    }
    return GradientRow(elements_of(first, row_norms(first).x), is_zero, first, heads);
}

// By elements 4 x4 .. + 3 of x.
fn by_elements(row: GradientRow, x4: u32) -> vec4<f32> {
    var sum = vec4<f32>(0.0);
    if (row.is_zero) { return sum; }
    let stride = weight_vec4(row.first.is_key);
    for (var head = 0u; head < row.heads; head++) {
        let index = RowIndex(row.first.is_key, row.first.t, row.first.head + head);
        let dy = projection_row(index);
        if (stride == 0u) {
            sum += projections[dy + x4];
            continue;
        }
        let begin = weights_begin(index) + 4u * x4 * stride;
        for (var p4 = 0u; p4 < stride; p4++) {
            let y = projections[dy + p4];
            let at = begin + p4;
            sum += vec4<f32>(dot(y, weights[at]), dot(y, weights[at + stride]),
                dot(y, weights[at + 2u * stride]), dot(y, weights[at + 3u * stride]));
        }
        sum += row_norms(index).z * elements(row.x, x4);
    }
    return sum;
}

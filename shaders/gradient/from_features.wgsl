// implements: row_gradient
//
// Maps without weights: the gradients by rows follow from those by features.

import gradient/argument::{Elements, RowIndex};
import gradient/map::{MapRow, map_row};
import gradient/slopes::{RowGradients, by_argument, row_gradients};

struct GradientRow {
    x: Elements,
    is_zero: bool,
    row: MapRow,
    by: RowGradients,
}

// Of the heads that read a row, of which the first is given.
fn gradient_row(first: RowIndex, heads: u32) -> GradientRow {
    let row = map_row(first);
    let by = row_gradients(row, heads);
    return GradientRow(row.x, by.is_zero, row, by);
}

// By elements 4 x4 .. + 3 of x.
fn by_elements(row: GradientRow, x4: u32) -> vec4<f32> { return by_argument(row.row, row.by, x4); }

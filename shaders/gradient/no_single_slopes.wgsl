// implements: single_slopes
//
// No map's features come one by one.

import gradient/map::{MapRow};
import gradient/slopes::{RowGradients};

fn single_sums(row: MapRow, by: RowGradients) -> vec2<f32> { return vec2<f32>(0.0); }

fn by_element(row: MapRow, by: RowGradients, i: u32) -> f32 { return 0.0; }

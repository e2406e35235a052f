// implements: custom_map
//
// The text of a caller's own feature map stands here. Where there is none, no map calls this.

import map/row::{Row, x};

fn phi(row: Row, feature: u32) -> f32 { return x(row, feature); }

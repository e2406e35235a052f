// Floats of a chunk on their way between registers, memory and factors.

import constants::{BLOCK_COLUMNS_VEC4, BLOCK_VEC4, L2_NORM, MATRIX};

const PANEL_LEN: u32 = MATRIX * max(4u * BLOCK_COLUMNS_VEC4, select(0u, BLOCK_VEC4, L2_NORM));

// MATRIX rows of the state, or of q' mu; or the squares of rows of q or k, four at a time.
var<workgroup> panel: array<f32, PANEL_LEN>;

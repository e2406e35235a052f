// Partial sums of a row of o, one for each feature block: q' mu, and where queries have a row scale
// in one more vec4 the weight q' . nu with the shift and the scale of the query's features in that
// block.

import constants::{SCALES_QUERIES, VALUE_DIM};

const VALUE_VEC4: u32 = (VALUE_DIM + 3u) / 4u;
const PARTIAL_ROW_VEC4: u32 = VALUE_VEC4 + select(0u, 1u, SCALES_QUERIES);

// [feature blocks, T max(H,E), PARTIAL_ROW_VEC4]
@group(0) @binding(10) var<storage, read_write> partials: array<vec4<f32>>;

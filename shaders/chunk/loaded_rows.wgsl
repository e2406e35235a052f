// A thread's share of a chunk's rows, as they are in storage, on their way to workgroup memory.

import constants::{KEY_SHARE, QUERY_SHARE, VALUE_SHARE};

struct LoadedRows {
    keys: array<vec4<f32>, KEY_SHARE>,
    queries: array<vec4<f32>, QUERY_SHARE>,
    values: array<vec4<f32>, VALUE_SHARE>,
}

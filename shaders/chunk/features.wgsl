// The features of a chunk in workgroup memory: phi(k), a row a token, and from row CHUNK_TOKENS on
// phi(q), a row a token and output head; of this work item's feature block.

import constants::{BLOCK_VEC4, CHUNK_QUERIES, CHUNK_TOKENS};

const FEATURE_CHUNK_LEN: u32 = (CHUNK_TOKENS + CHUNK_QUERIES) * BLOCK_VEC4;

var<workgroup> features: array<vec4<f32>, FEATURE_CHUNK_LEN>;  // [rows, F/4]

fn query_features(row: u32) -> u32 { return (CHUNK_TOKENS + row) * BLOCK_VEC4; }

// Sizes that are fixed when tensors are bound. src/kernel/params.rs mirrors the struct, and a test
// compares the offsets.

// The beginnings of the rows of a tensor, in the units of its accesses.
struct Rows {
    offset: u32,  // of the first row
    batch: u32,   // from one row of the batch to the next, less T times the next
    token: u32,   // from one token to the next
    head: u32,    // from one head to the next
}

struct Params {
    q: Rows,
    k: Rows,
    v: Rows,
    o: Rows,
    sequences: u32,             // N
    seq_len: u32,               // T, where all sequences have as many tokens
    total_tokens: u32,          // tokens of all sequences together
    max_len: u32,               // tokens of the longest sequence
    heads: u32,                 // H
    key_heads: u32,             // G
    value_heads: u32,           // E
    output_heads: u32,          // max(H, E)
    key_group: u32,             // E / G: value heads that read one key head
    query_group: u32,           // max(H, E) / H: output heads that read one query head
    group: u32,                 // max(H, E) / E: output heads that read one value head
    head_tile: u32,             // output heads of a work item
    head_blocks: u32,           // ceil(group / head_tile)
    value_blocks: u32,          // ceil(V / columns of a work item)
    segments: u32,              // S, where all sequences have as many tokens
    segment_len: u32,           // tokens of a segment; the last of a sequence may have fewer
    chunk_len: u32,             // tokens of a chunk, at most CHUNK_TOKENS
    states: u32,                // states in state_in and state_out, outside scratch: N, or slots
    key_weights: u32,           // vec4s from one head's weights to the next, for keys
    query_weights_begin: u32,   // the first vec4 of the queries' weights
    query_weights: u32,         // vec4s from one head's weights to the next, for queries
    shares_key_weights: u32,    // 1 where a query has the weights of the key head that it reads
    grid_width: u32,            // workgroups along x; the rest is folded into y
    first_workgroup: u32,       // those before it are in earlier submissions
    first_step: u32,            // of the steps of gradient_recurrence, those of a dispatch
    end_step: u32,
    steps: u32,                 // all of them
}

@group(0) @binding(0) var<uniform> params: Params;

// The number of a workgroup among all of its dispatch, whose grid is folded and may be in parts.
fn workgroup_index(workgroup: vec3<u32>) -> u32 {
    return params.first_workgroup + workgroup.y * params.grid_width + workgroup.x;
}

// Where a workgroup has a block of features, it leaves that block's share of its rows, for
// output_sum to add up.

// [blocks of features, M H, V/4 + 1]: a row of q' mu, and in the last q' . nu
@group(0) @binding(10) var<storage, read_write> shares: array<vec4<f32>>;

override SHARE_QUADS: u32 = (VALUE_DIM + 3u) / 4u + 1u;

fn leave_rows(chunk: Chunk, rows: u32, thread: u32) {
    let first = chunk.feature_block * params.tokens * params.heads;
    if (chunk.value_block == 0u) {
        for (var row = thread; row < rows; row += THREADS) {
            shares[(first + o_row(chunk, row) + 1u) * SHARE_QUADS - 1u] =
                vec4<f32>(sum_of_weights(row));
        }
    }
    for (var i = thread; i < rows * VALUE_QUADS; i += THREADS) {
        let row = i / VALUE_QUADS;
        let quad = chunk.value_block * VALUE_QUADS + i % VALUE_QUADS;
        if (quad + 1u < SHARE_QUADS) {
            shares[(first + o_row(chunk, row)) * SHARE_QUADS + quad] =
                sum_of_shares(row, i % VALUE_QUADS);
        }
    }
}

// Where one workgroup has all features of its rows, it has their outputs.

fn leave_rows(chunk: Chunk, rows: u32, thread: u32) {
    for (var row = thread; row < rows; row += THREADS) {
        factor[row] = factor_of(sum_of_weights(row), query_shift(row));
    }
    workgroupBarrier();
    for (var i = thread; i < rows * VALUE_QUADS; i += THREADS) {
        let row = i / VALUE_QUADS;
        let quad = i % VALUE_QUADS;
        store_o_quad(o_row(chunk, row), chunk.value_block * VALUE_QUADS + quad,
            sum_of_shares(row, quad) * factor[row]);
    }
}

// Features that are functions of the numbers at their places: rows are mapped on their way into
// workgroup memory. (mapped.wgsl has the same functions for maps that need more of a row.)

fn load_chunk_keys(chunk: Chunk, thread: u32) {
    for (var i = thread; i < chunk.count * FEATURE_QUADS; i += THREADS) {
        let quad = i % FEATURE_QUADS;
        let row = kv_row(chunk.first + i / FEATURE_QUADS, chunk.g);
        feature_chunk[i] = feature_quad(KEY_MAP, k_quad(row, quad), quad);
    }
}

fn load_chunk_queries(chunk: Chunk, thread: u32) {
    for (var i = thread; i < chunk.count * chunk.heads * FEATURE_QUADS; i += THREADS) {
        let quad = i % FEATURE_QUADS;
        let row = o_row(chunk, i / FEATURE_QUADS);
        feature_chunk[CHUNK_TOKENS * FEATURE_QUADS + i] =
            feature_quad(QUERY_MAP, q_quad(row, quad), quad);
    }
}

// Nothing is left to be mapped, and no barrier needed.
fn map_chunk(chunk: Chunk, queries: u32, thread: u32) {}

// What the logarithms of a query's features are too small by.
fn query_shift(row: u32) -> f32 { return 0.0; }

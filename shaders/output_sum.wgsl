// The outputs, from the shares that each block of features has in them:
//
//     o = (s sum of shares of q' mu) / (s sum of shares of q' . nu + eps)
//
// reads   shares [blocks of features, M H, V/4 + 1]
// writes  o [M,H,V]
// grid    one thread for each of M x H x V/4, folded
// memory  none

// A row of q' mu, and in the last quad q' . nu.
@group(0) @binding(10) var<storage, read_write> shares: array<vec4<f32>>;

override SCAN_THREADS: u32;  // threads of a workgroup
override SHARE_QUADS: u32 = (VALUE_DIM + 3u) / 4u + 1u;

@compute @workgroup_size(SCAN_THREADS)
fn output_sum(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = (workgroup.y * params.grid_width + workgroup.x) * SCAN_THREADS + thread;
    let quad = i % (SHARE_QUADS - 1u);
    let row = i / (SHARE_QUADS - 1u);
    let t = row / params.heads;
    if (t >= params.tokens || !has_output(t)) {
        return;
    }
    let stride = params.tokens * params.heads;
    var sum = vec4<f32>(0.0);
    var weight = 0.0;
    for (var block = 0u; block < FEATURE_BLOCKS; block++) {
        let first = (block * stride + row) * SHARE_QUADS;
        sum += shares[first + quad];
        weight += shares[first + SHARE_QUADS - 1u].x;
    }
    store_o_quad(row, quad, sum * factor_of(weight, 0.0));
}

// Whether a token is of a sequence that takes part.
fn has_output(t: u32) -> bool {
    if (!LENGTHS_GIVEN && !SLOTS_GIVEN) { return true; }
    // The last sequence that begins at or before it: those after its own begin where that ends.
    var n = 0u;
    var beyond = params.sequences;
    while (beyond - n > 1u) {
        let middle = n + (beyond - n) / 2u;
        if (table[middle].x <= t) { n = middle; } else { beyond = middle; }
    }
    let entry = entry_of(n);
    return entry.w != 0u && t < entry.y;
}

// The outputs of the few tokens that each sequence has, and its state updated where it lies:
//
//     mu_i = mu_{i-1} + phi(k_i)^T v_i      nu_i = nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// A workgroup has a whole key/value head of a sequence, so that it alone reads and writes
// that state: slice of V by slice, each read once into registers and written once.
//
// reads   q [M,H,K]  k [M,G,K]  v [M,G,V]  start: a state for each sequence
// writes  o [M,H,V]  end: a state for each sequence, or that of its slot
// grid    N G, folded
// memory  as segment_output

@compute @workgroup_size(THREADS)
fn decode_step(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let index = workgroup_index(workgroup);
    let n = index / params.kv_heads;
    let g = index % params.kv_heads;
    if (n >= params.sequences) {
        return;
    }
    let sequence = workgroup_sequence(n, thread);
    if (sequence.is_bad || !sequence.is_used) {
        if (sequence.is_bad && g == 0u && thread == 0u) {
            atomicAdd(&sequences.status, 1u);
        }
        return;
    }
    let state = state_at(sequence.state, g);
    if (SLICES == 1u) {
        // Not as a loop, which some software drivers do not live through around the others.
        walk_slice(state, sequence, g, 0u, thread);
    } else {
        for (var slice = 0u; slice < SLICES; slice++) {
            walk_slice(state, sequence, g, slice, thread);
        }
    }
    // Every slice has read nu by now, each quad in the thread that writes it.
    if (WRITE_END) {
        store_end_nu(state, 0u, thread);
    }
}

override SLICES: u32 = (VALUE_DIM + 4u * COLUMN_THREADS - 1u) / (4u * COLUMN_THREADS);

// The tokens through one slice of mu.
fn walk_slice(state: StateAt, sequence: Sequence, g: u32, slice: u32, thread: u32) {
    var mu = start_tile(state, 0u, slice, thread);
    load_start_nu(state, 0u, thread);
    var chunk: Chunk;
    chunk.g = g;
    chunk.value_block = slice;
    for (var first = sequence.begin; first < sequence.end; first += params.chunk_len) {
        chunk.first = first;
        chunk.count = min(params.chunk_len, sequence.end - first);
        // With more than one block of query heads a chunk has one token.
        for (var head_block = 0u; head_block < params.head_blocks; head_block++) {
            let before = head_block * params.head_tile;
            chunk.first_head = g * params.group + before;
            chunk.heads = min(params.head_tile, params.group - before);
            chunk.is_new = head_block == 0u;
            chunk_outputs(&mu, chunk, thread);
        }
    }
    if (WRITE_END) {
        store_tile(&mu, state, 0u, slice, thread);
    }
}

var<workgroup> shared_sequence: Sequence;
var<workgroup> any_clash: atomic<u32>;

// Sequence n, the same for all threads, each of which compares it with some of the others.
fn workgroup_sequence(n: u32, thread: u32) -> Sequence {
    var sequence = sequence_of(n);
    if (MAY_CLASH) {
        if (thread == 0u) {
            atomicStore(&any_clash, 0u);
        }
        workgroupBarrier();
        for (var m = thread; m < params.sequences; m += THREADS) {
            if (clashes(n, sequence, m)) {
                atomicStore(&any_clash, 1u);
            }
        }
        workgroupBarrier();
        if (atomicLoad(&any_clash) != 0u) {
            sequence.is_bad = sequence.is_used;
        }
    }
    if (thread == 0u) {
        shared_sequence = sequence;
    }
    return workgroupUniformLoad(&shared_sequence);
}

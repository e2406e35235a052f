// The outputs of the few tokens that each sequence has, and its state updated where it lies:
//
//     mu_i = mu_{i-1} + phi(k_i)^T v_i      nu_i = nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// A thread has a slice of values of a key/value head of a sequence, and goes through its
// rows: they come into registers, take in the tokens, leave their share of each token's q' mu,
// and go back. The slices of a head lie side by side in a workgroup, as do their rows in
// memory; all of them read nu before any writes its part of it.
//
// reads   q [M,H,K]  k [M,G,K]  v [M,G,V]  start: a state for each sequence
// writes  o [M,H,V]  end: a state for each sequence, or that of its slot
// grid    PLACES of N G to a workgroup, folded
// memory  none

override PLACES: u32;  // key/value heads of a workgroup
override RUN: bool;    // whether a key/value head may have more than one query row

override SLICES: u32 = (VALUE_DIM + 4u * SLICE_QUADS - 1u) / (4u * SLICE_QUADS);
override THREADS: u32 = PLACES * SLICES;

// Four features by the slice, whose quads beyond SLICE_QUADS stay zero and are not touched. A
// column of a matrix is a feature, a row a value.
struct Tile { a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32> }
// The slice of a row of v or o.
struct Values { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

@compute @workgroup_size(THREADS)
fn decode_step(
    @builtin(workgroup_id) workgroup: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let first_place = (workgroup.y * params.grid_width + workgroup.x) * PLACES;
    let place = first_place + thread / SLICES;
    let slice = thread % SLICES;
    let n = place / params.kv_heads;
    let g = place % params.kv_heads;
    var sequence: Sequence;
    if (n < params.sequences) {
        sequence = sequence_of(n);
        if (MAY_CLASH) {
            for (var m = 0u; m < params.sequences; m++) {
                if (clashes(n, sequence, m)) { sequence.is_bad = sequence.is_used; }
            }
        }
        if (sequence.is_bad && g == 0u && slice == 0u) {
            atomicAdd(&sequences.status, 1u);
        }
    }
    let takes_part = sequence.is_used && !sequence.is_bad;
    let state = state_at(sequence.state, g);
    if (takes_part) {
        if (!RUN && (!LENGTHS_GIVEN || sequence.begin < sequence.end)) {
            step(state, sequence.begin, g, SLICE_QUADS * slice);
        } else {
            run(state, sequence, g, SLICE_QUADS * slice);
        }
    }
    storageBarrier();
    if (WRITE_END && takes_part) {
        for (var quad = slice; 4u * quad < FEATURE_DIM; quad += SLICES) {
            store_end_nu_quad(state, quad, nu_after(state, sequence.begin, sequence.end, g, quad));
        }
    }
}

// One token with one query row, its share of o in registers all the while.
fn step(state: StateAt, t: u32, g: u32, quad: u32) {
    let row = kv_row(t, g);
    let v = load_v(row, quad);
    let o_row = t * params.heads + g * params.group;
    let shift = query_shift(o_row);
    var o = Values();
    // q' . nu, in four shares.
    var shares = vec4<f32>(0.0);
    for (var feature = 0u; feature < FEATURE_DIM; feature += 4u) {
        let k = feature_quad(KEY_MAP, k_quad(row, feature / 4u), feature / 4u);
        let q = query_feature_quad(q_quad(o_row, feature / 4u), feature / 4u, shift);
        shares += (start_nu_quad(state, feature / 4u) + k) * q;
        step_row(&o, state, feature, quad, k.x, v, q.x);
        step_row(&o, state, feature + 1u, quad, k.y, v, q.y);
        step_row(&o, state, feature + 2u, quad, k.z, v, q.z);
        step_row(&o, state, feature + 3u, quad, k.w, v, q.w);
    }
    let factor = factor_of(shares.x + shares.y + shares.z + shares.w, shift);
    store_o(o_row, quad, scaled(o, factor));
}

// What a query is mapped less, for the map that takes something off.
fn query_shift(o_row: u32) -> f32 {
    if (QUERY_MAP != EXP) { return 0.0; }
    var most = or_lowest(q_quad(o_row, 0u), 0u);
    for (var quad = 1u; 4u * quad < FEATURE_DIM; quad++) {
        most = max(most, or_lowest(q_quad(o_row, quad), quad));
    }
    return shift_of(max(max(most.x, most.y), max(most.z, most.w)));
}

// A row of mu at a time: a software driver spills what lives longer.
fn step_row(o: ptr<function, Values>, state: StateAt, feature: u32, quad: u32, k: f32, v: Values, q: f32) {
    let a = load_row(state, feature, quad) + k * v.a;
    (*o).a += q * a;
    if (WRITE_END) { store_row(state, feature, quad, a); }
    if (SLICE_QUADS > 1u) {
        let b = load_row(state, feature, quad + 1u) + k * v.b;
        let c = load_row(state, feature, quad + 2u) + k * v.c;
        let d = load_row(state, feature, quad + 3u) + k * v.d;
        (*o).b += q * b;
        (*o).c += q * c;
        (*o).d += q * d;
        if (WRITE_END) {
            store_row(state, feature, quad + 1u, b);
            store_row(state, feature, quad + 2u, c);
            store_row(state, feature, quad + 3u, d);
        }
    }
}

// Any number of tokens and query rows, as many at a time as there is room for their sums: the
// state is read and written once for each ROWS of them.
fn run(state: StateAt, sequence: Sequence, g: u32, quad: u32) {
    let tokens = max(ROWS / params.group, 1u);
    let heads = min(params.group, ROWS);
    var rows: Rows;
    rows.g = g;
    rows.begin = sequence.begin;
    // An empty sequence has its state carried on.
    let turns = max((sequence.end - sequence.begin + tokens - 1u) / tokens, 1u);
    for (var turn = 0u; turn < turns; turn++) {
        rows.first = sequence.begin + turn * tokens;
        rows.end = min(rows.first + tokens, sequence.end);
        for (rows.first_head = 0u; rows.first_head < params.group; rows.first_head += heads) {
            rows.heads = min(heads, params.group - rows.first_head);
            walk(state, rows, quad);
        }
    }
}

// Query rows of a sequence: tokens first .. end, heads first_head .. first_head + heads of the
// group. `begin` is the first token of the sequence.
struct Rows { begin: u32, first: u32, end: u32, first_head: u32, heads: u32, g: u32 }

const ROWS: u32 = 16u;

fn walk(state: StateAt, rows: Rows, quad: u32) {
    // What went before is in `end`, with the tokens up to here; where there is no `end`, each
    // walk begins at the start and takes in all of them again.
    let is_first = !WRITE_END || (rows.first == rows.begin && rows.first_head == 0u);
    let is_new = !WRITE_END || rows.first_head == 0u;
    let since = select(rows.first, rows.begin, !WRITE_END);
    var o: array<Values, ROWS>;
    // q' . nu, in four shares.
    var shares: array<vec4<f32>, ROWS>;
    var shifts: array<f32, ROWS>;
    for (var row = 0u; row < ROWS; row++) {
        o[row] = Values();
        shares[row] = vec4<f32>(0.0);
        if (QUERY_MAP == EXP && row < (rows.end - rows.first) * rows.heads) {
            shifts[row] = query_shift((rows.first + row / rows.heads) * params.heads
                + rows.g * params.group + rows.first_head + row % rows.heads);
        }
    }

    for (var feature = 0u; feature < FEATURE_DIM; feature += 4u) {
        var mu = load_tile(state, feature, quad, is_first);
        var nu = start_nu_quad(state, feature / 4u);
        for (var t = rows.begin; t < rows.end; t++) {
            let k = feature_quad(KEY_MAP, k_quad(kv_row(t, rows.g), feature / 4u), feature / 4u);
            nu += k;
            if (is_new && t >= since) { add_token(&mu, k, t, rows.g, quad); }
            if (t < rows.first) { continue; }
            let first_row = t * params.heads + rows.g * params.group + rows.first_head;
            for (var head = 0u; head < rows.heads; head++) {
                let row = (t - rows.first) * rows.heads + head;
                let x = q_quad(first_row + head, feature / 4u);
                let q = query_feature_quad(x, feature / 4u, shifts[row]);
                shares[row] += nu * q;
                o[row].a += mu.a * q;
                if (SLICE_QUADS > 1u) {
                    o[row].b += mu.b * q;
                    o[row].c += mu.c * q;
                    o[row].d += mu.d * q;
                }
            }
        }
        if (WRITE_END && is_new) {
            store_rows(mu.a, state, feature, quad);
            if (SLICE_QUADS > 1u) {
                store_rows(mu.b, state, feature, quad + 1u);
                store_rows(mu.c, state, feature, quad + 2u);
                store_rows(mu.d, state, feature, quad + 3u);
            }
        }
    }
    for (var t = rows.first; t < rows.end; t++) {
        let first_row = t * params.heads + rows.g * params.group + rows.first_head;
        for (var head = 0u; head < rows.heads; head++) {
            let row = (t - rows.first) * rows.heads + head;
            let sum = shares[row].x + shares[row].y + shares[row].z + shares[row].w;
            store_o(first_row + head, quad, scaled(o[row], factor_of(sum, shifts[row])));
        }
    }
}

// mu += k'^T v
fn add_token(mu: ptr<function, Tile>, k: vec4<f32>, t: u32, g: u32, quad: u32) {
    let v = load_v(kv_row(t, g), quad);
    (*mu).a += outer(k, v.a);
    if (SLICE_QUADS > 1u) {
        (*mu).b += outer(k, v.b);
        (*mu).c += outer(k, v.c);
        (*mu).d += outer(k, v.d);
    }
}

// A quad of nu after the tokens begin .. end.
fn nu_after(state: StateAt, begin: u32, end: u32, g: u32, quad: u32) -> vec4<f32> {
    var nu = start_nu_quad(state, quad);
    for (var t = begin; t < end; t++) {
        nu += feature_quad(KEY_MAP, k_quad(kv_row(t, g), quad), quad);
    }
    return nu;
}

fn scaled(x: Values, factor: f32) -> Values {
    return Values(factor * x.a, factor * x.b, factor * x.c, factor * x.d);
}

fn load_v(row: u32, quad: u32) -> Values {
    var v = Values();
    v.a = v_quad(row, quad);
    if (SLICE_QUADS > 1u) {
        v.b = v_quad(row, quad + 1u);
        v.c = v_quad(row, quad + 2u);
        v.d = v_quad(row, quad + 3u);
    }
    return v;
}

fn store_o(row: u32, quad: u32, o: Values) {
    store_o_quad(row, quad, o.a);
    if (SLICE_QUADS > 1u) {
        store_o_quad(row, quad + 1u, o.b);
        store_o_quad(row, quad + 2u, o.c);
        store_o_quad(row, quad + 3u, o.d);
    }
}

fn load_tile(state: StateAt, feature: u32, quad: u32, is_first: bool) -> Tile {
    var mu = Tile();
    mu.a = load_rows(state, feature, quad, is_first);
    if (SLICE_QUADS > 1u) {
        mu.b = load_rows(state, feature, quad + 1u, is_first);
        mu.c = load_rows(state, feature, quad + 2u, is_first);
        mu.d = load_rows(state, feature, quad + 3u, is_first);
    }
    return mu;
}

fn load_rows(state: StateAt, feature: u32, quad: u32, is_first: bool) -> mat4x4<f32> {
    return mat4x4<f32>(
        load_row_of(state, feature, quad, is_first), load_row_of(state, feature + 1u, quad, is_first),
        load_row_of(state, feature + 2u, quad, is_first),
        load_row_of(state, feature + 3u, quad, is_first));
}

// From `start`, or from `end` where an earlier walk has written it.
fn load_row_of(state: StateAt, feature: u32, quad: u32, is_first: bool) -> vec4<f32> {
    if (START == START_IN_PLACE || is_first) { return load_row(state, feature, quad); }
    if (is_inside(feature, quad)) { return end_mu_inside(state, feature, quad); }
    return vec4<f32>(0.0);
}

fn store_rows(rows: mat4x4<f32>, state: StateAt, feature: u32, quad: u32) {
    store_row(state, feature, quad, rows[0]);
    store_row(state, feature + 1u, quad, rows[1]);
    store_row(state, feature + 2u, quad, rows[2]);
    store_row(state, feature + 3u, quad, rows[3]);
}

// Where fours fill K and slices V, a compiler need not ask.
fn is_inside(feature: u32, quad: u32) -> bool {
    return (FEATURE_DIM % 4u == 0u || feature < FEATURE_DIM)
        && (VALUE_DIM % (4u * SLICE_QUADS) == 0u || 4u * quad < VALUE_DIM);
}

fn load_row(state: StateAt, feature: u32, quad: u32) -> vec4<f32> {
    if (is_inside(feature, quad)) { return start_mu_inside(state, feature, quad); }
    return vec4<f32>(0.0);
}

fn store_row(state: StateAt, feature: u32, quad: u32, row: vec4<f32>) {
    if (is_inside(feature, quad)) { store_end_mu_inside(state, feature, quad, row); }
}

fn outer(k: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(k.x * v, k.y * v, k.z * v, k.w * v);
}

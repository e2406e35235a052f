// The outputs of the few tokens that each sequence has, and its state updated where it lies:
//
//     mu_i = mu_{i-1} + phi(k_i)^T v_i      nu_i = nu_{i-1} + phi(k_i)
//     o_i  = (s phi(q_i) mu_i) / (s phi(q_i) . nu_i + eps)
//
// A thread has a slice of 16 values of a key/value head of a sequence, and goes through its
// rows: they come into registers, take in the tokens, leave their share of each token's q' mu,
// and go back. The slices of a head lie side by side in a workgroup, as do their rows in
// memory; all of them read nu before any writes its part of it.
//
// reads   q [N,T,H,K]  k [N,T,G,K]  v [N,T,G,V]  start: a state for each sequence
// writes  o [N,T,H,V]  end: a state for each sequence, or that of its slot
// grid    PLACES of N G to a workgroup, folded
// memory  none

override PLACES: u32;  // key/value heads of a workgroup
override RUN: bool;    // whether a key/value head may have more than one query row

override SLICES: u32 = (VALUE_DIM + 15u) / 16u;
override THREADS: u32 = PLACES * SLICES;

// Four features by the slice. A column of a matrix is a feature, a row a value.
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
        if (LENGTHS_GIVEN || SLOTS_GIVEN) {
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
            step(state, sequence.begin, g, 4u * slice);
        } else {
            run(state, sequence, g, 4u * slice);
        }
    }
    storageBarrier();
    if (WRITE_END && takes_part) {
        for (var quad = slice; 4u * quad < KEY_DIM; quad += SLICES) {
            store_end_nu_quad(state, quad, nu_after(state, sequence.begin, sequence.end, g, quad));
        }
    }
}

// One token with one query row, its share of o in registers all the while.
fn step(state: StateAt, t: u32, g: u32, quad: u32) {
    let row = kv_row(t, g);
    let v = Values(v_quad(row, quad), v_quad(row, quad + 1u), v_quad(row, quad + 2u), v_quad(row, quad + 3u));
    let o_row = t * params.heads + g * params.group;
    var o = Values();
    for (var feature = 0u; feature < KEY_DIM; feature += 4u) {
        let k = feature_quad(k_quad(row, feature / 4u), feature / 4u);
        let q = feature_quad(q_quad(o_row, feature / 4u), feature / 4u);
        step_row(&o, state, feature, quad, k.x, v, q.x);
        step_row(&o, state, feature + 1u, quad, k.y, v, q.y);
        step_row(&o, state, feature + 2u, quad, k.z, v, q.z);
        step_row(&o, state, feature + 3u, quad, k.w, v, q.w);
    }
    store_o(o_row, quad, scaled(o, factor_of_row(state, t, t, g, o_row)));
}

// A row of mu at a time: a software driver spills what lives longer.
fn step_row(o: ptr<function, Values>, state: StateAt, feature: u32, quad: u32, k: f32, v: Values, q: f32) {
    let a = load_row(state, feature, quad) + k * v.a;
    let b = load_row(state, feature, quad + 1u) + k * v.b;
    let c = load_row(state, feature, quad + 2u) + k * v.c;
    let d = load_row(state, feature, quad + 3u) + k * v.d;
    (*o).a += q * a;
    (*o).b += q * b;
    (*o).c += q * c;
    (*o).d += q * d;
    if (WRITE_END) {
        store_row(state, feature, quad, a);
        store_row(state, feature, quad + 1u, b);
        store_row(state, feature, quad + 2u, c);
        store_row(state, feature, quad + 3u, d);
    }
}

// Any number of tokens and query rows. Their shares of o are added up in o itself, since no
// register has an index.
fn run(state: StateAt, sequence: Sequence, g: u32, quad: u32) {
    for (var feature = 0u; feature < KEY_DIM; feature += 4u) {
        var mu = Tile(
            load_rows(state, feature, quad), load_rows(state, feature, quad + 1u),
            load_rows(state, feature, quad + 2u), load_rows(state, feature, quad + 3u));
        for (var t = sequence.begin; t < sequence.end; t++) {
            add_token(&mu, t, g, feature, quad);
            add_shares(&mu, t, g, feature, quad);
        }
        if (WRITE_END) {
            store_rows(mu.a, state, feature, quad);
            store_rows(mu.b, state, feature, quad + 1u);
            store_rows(mu.c, state, feature, quad + 2u);
            store_rows(mu.d, state, feature, quad + 3u);
        }
    }
    for (var t = sequence.begin; t < sequence.end; t++) {
        let first_row = t * params.heads + g * params.group;
        for (var row = first_row; row < first_row + params.group; row++) {
            let factor = factor_of_row(state, sequence.begin, t, g, row);
            store_o(row, quad, scaled(load_o(row, quad), factor));
        }
    }
}

// mu += k'^T v
fn add_token(mu: ptr<function, Tile>, t: u32, g: u32, feature: u32, quad: u32) {
    let row = kv_row(t, g);
    let k = feature_quad(k_quad(row, feature / 4u), feature / 4u);
    (*mu).a += outer(k, v_quad(row, quad));
    (*mu).b += outer(k, v_quad(row, quad + 1u));
    (*mu).c += outer(k, v_quad(row, quad + 2u));
    (*mu).d += outer(k, v_quad(row, quad + 3u));
}

// o += q' mu, over these four features, for every query head of the token. The first four
// find in o what some earlier call left there.
fn add_shares(mu: ptr<function, Tile>, t: u32, g: u32, feature: u32, quad: u32) {
    let first_row = t * params.heads + g * params.group;
    for (var row = first_row; row < first_row + params.group; row++) {
        let q = feature_quad(q_quad(row, feature / 4u), feature / 4u);
        var o = Values();
        if (feature > 0u) { o = load_o(row, quad); }
        o.a += (*mu).a * q;
        o.b += (*mu).b * q;
        o.c += (*mu).c * q;
        o.d += (*mu).d * q;
        store_o(row, quad, o);
    }
}

// What the row of token t, with the sequence's tokens from `begin`, is multiplied by.
fn factor_of_row(state: StateAt, begin: u32, t: u32, g: u32, row: u32) -> f32 {
    var shares = vec4<f32>(0.0);
    if (NORMALIZE) {
        for (var quad = 0u; 4u * quad < KEY_DIM; quad++) {
            shares += nu_after(state, begin, t + 1u, g, quad) * feature_quad(q_quad(row, quad), quad);
        }
    }
    return factor_of(shares.x + shares.y + shares.z + shares.w);
}

// A quad of nu after the tokens begin .. end.
fn nu_after(state: StateAt, begin: u32, end: u32, g: u32, quad: u32) -> vec4<f32> {
    var nu = start_nu_quad(state, quad);
    if (!RUN && !LENGTHS_GIVEN) {
        return nu + feature_quad(k_quad(kv_row(begin, g), quad), quad);
    }
    for (var t = begin; t < end; t++) {
        nu += feature_quad(k_quad(kv_row(t, g), quad), quad);
    }
    return nu;
}

fn scaled(x: Values, factor: f32) -> Values {
    return Values(factor * x.a, factor * x.b, factor * x.c, factor * x.d);
}

fn load_o(row: u32, quad: u32) -> Values {
    return Values(o_quad(row, quad), o_quad(row, quad + 1u), o_quad(row, quad + 2u), o_quad(row, quad + 3u));
}

fn store_o(row: u32, quad: u32, o: Values) {
    store_o_quad(row, quad, o.a);
    store_o_quad(row, quad + 1u, o.b);
    store_o_quad(row, quad + 2u, o.c);
    store_o_quad(row, quad + 3u, o.d);
}

fn load_rows(state: StateAt, feature: u32, quad: u32) -> mat4x4<f32> {
    return mat4x4<f32>(
        load_row(state, feature, quad), load_row(state, feature + 1u, quad),
        load_row(state, feature + 2u, quad), load_row(state, feature + 3u, quad));
}

fn store_rows(rows: mat4x4<f32>, state: StateAt, feature: u32, quad: u32) {
    store_row(state, feature, quad, rows[0]);
    store_row(state, feature + 1u, quad, rows[1]);
    store_row(state, feature + 2u, quad, rows[2]);
    store_row(state, feature + 3u, quad, rows[3]);
}

// Where fours fill K and sixteens V, a compiler need not ask.
fn is_inside(feature: u32, quad: u32) -> bool {
    return (KEY_DIM % 4u == 0u || feature < KEY_DIM)
        && (VALUE_DIM % 16u == 0u || 4u * quad < VALUE_DIM);
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

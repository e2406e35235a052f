// The register tile: F features by up to 32 values of mu, all in one thread.
//
// Threads share nothing: no workgroup memory, no barrier, and every sum over features is a
// thread's own. The price is that threads with other values of the same state read and map
// the same rows again, and that F x 32 registers are more than any GPU has. A software
// device keeps them on its stack, and pays for a memory access what it pays for a hundred
// multiply-adds: there the largest tile is the fastest.
//
// Registers have no index, so every part has a name. What lies beyond F or TILE_QUADS is
// not compiled: both are overrides, and so is every condition on them.

override TILE_QUADS: u32;  // quads of values of a thread: 1, 2, 4 or 8

// 64 features of one row of phi(k) or phi(q).
struct Features {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
    i: vec4<f32>, j: vec4<f32>, k: vec4<f32>, l: vec4<f32>,
    m: vec4<f32>, n: vec4<f32>, o: vec4<f32>, p: vec4<f32>,
}

// 64 features by a quad of values. A column of a matrix is a feature, a row a value.
struct Strip {
    a: mat4x4<f32>, b: mat4x4<f32>, c: mat4x4<f32>, d: mat4x4<f32>,
    e: mat4x4<f32>, f: mat4x4<f32>, g: mat4x4<f32>, h: mat4x4<f32>,
    i: mat4x4<f32>, j: mat4x4<f32>, k: mat4x4<f32>, l: mat4x4<f32>,
    m: mat4x4<f32>, n: mat4x4<f32>, o: mat4x4<f32>, p: mat4x4<f32>,
}

// 64 features by all the values of the thread; and one row of those values.
struct Block { a: Strip, b: Strip, c: Strip, d: Strip, e: Strip, f: Strip, g: Strip, h: Strip }
struct Values {
    a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32>,
    e: vec4<f32>, f: vec4<f32>, g: vec4<f32>, h: vec4<f32>,
}

// How many features there are from `first` on.
fn features_from(first: u32) -> u32 {
    return FEATURE_DIM - min(FEATURE_DIM, first);
}

fn outer(k: vec4<f32>, v: vec4<f32>) -> mat4x4<f32> {
    return mat4x4<f32>(k.x * v, k.y * v, k.z * v, k.w * v);
}

// mu += k^T v
fn add_outer(mu: ptr<function, Strip>, k: Features, v: vec4<f32>, features: u32) {
    (*mu).a += outer(k.a, v);
    if (features > 4u) { (*mu).b += outer(k.b, v); }
    if (features > 8u) { (*mu).c += outer(k.c, v); }
    if (features > 12u) { (*mu).d += outer(k.d, v); }
    if (features > 16u) { (*mu).e += outer(k.e, v); }
    if (features > 20u) { (*mu).f += outer(k.f, v); }
    if (features > 24u) { (*mu).g += outer(k.g, v); }
    if (features > 28u) { (*mu).h += outer(k.h, v); }
    if (features > 32u) { (*mu).i += outer(k.i, v); }
    if (features > 36u) { (*mu).j += outer(k.j, v); }
    if (features > 40u) { (*mu).k += outer(k.k, v); }
    if (features > 44u) { (*mu).l += outer(k.l, v); }
    if (features > 48u) { (*mu).m += outer(k.m, v); }
    if (features > 52u) { (*mu).n += outer(k.n, v); }
    if (features > 56u) { (*mu).o += outer(k.o, v); }
    if (features > 60u) { (*mu).p += outer(k.p, v); }
}

// q mu
fn apply(mu: ptr<function, Strip>, q: Features, features: u32) -> vec4<f32> {
    var o = (*mu).a * q.a;
    if (features > 4u) { o += (*mu).b * q.b; }
    if (features > 8u) { o += (*mu).c * q.c; }
    if (features > 12u) { o += (*mu).d * q.d; }
    if (features > 16u) { o += (*mu).e * q.e; }
    if (features > 20u) { o += (*mu).f * q.f; }
    if (features > 24u) { o += (*mu).g * q.g; }
    if (features > 28u) { o += (*mu).h * q.h; }
    if (features > 32u) { o += (*mu).i * q.i; }
    if (features > 36u) { o += (*mu).j * q.j; }
    if (features > 40u) { o += (*mu).k * q.k; }
    if (features > 44u) { o += (*mu).l * q.l; }
    if (features > 48u) { o += (*mu).m * q.m; }
    if (features > 52u) { o += (*mu).n * q.n; }
    if (features > 56u) { o += (*mu).o * q.o; }
    if (features > 60u) { o += (*mu).p * q.p; }
    return o;
}

// nu += weight k
fn add_keys(nu: ptr<function, Features>, k: Features, weight: f32) {
    (*nu).a += weight * k.a; (*nu).b += weight * k.b;
    (*nu).c += weight * k.c; (*nu).d += weight * k.d;
    (*nu).e += weight * k.e; (*nu).f += weight * k.f;
    (*nu).g += weight * k.g; (*nu).h += weight * k.h;
    (*nu).i += weight * k.i; (*nu).j += weight * k.j;
    (*nu).k += weight * k.k; (*nu).l += weight * k.l;
    (*nu).m += weight * k.m; (*nu).n += weight * k.n;
    (*nu).o += weight * k.o; (*nu).p += weight * k.p;
}

// Shares of q . nu, to be added up.
fn dot_shares(nu: ptr<function, Features>, q: Features) -> vec4<f32> {
    return (*nu).a * q.a + (*nu).b * q.b + (*nu).c * q.c + (*nu).d * q.d
        + (*nu).e * q.e + (*nu).f * q.f + (*nu).g * q.g + (*nu).h * q.h
        + (*nu).i * q.i + (*nu).j * q.j + (*nu).k * q.k + (*nu).l * q.l
        + (*nu).m * q.m + (*nu).n * q.n + (*nu).o * q.o + (*nu).p * q.p;
}

// The peak rates of a device: memory copies, and multiply-adds.

const THREADS = 256u;

@group(0) @binding(0) var<storage, read_write> source: array<vec4f>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4f>;

// Each workgroup copies COPIES * THREADS neighbouring vectors.
const COPIES = 4u;

@compute @workgroup_size(THREADS)
fn copy(@builtin(workgroup_id) workgroup: vec3u, @builtin(local_invocation_index) thread: u32) {
    let first = workgroup.x * COPIES * THREADS + thread;
    for (var i = 0u; i < COPIES; i++) {
        target_[first + i * THREADS] = source[first + i * THREADS];
    }
}

// Eight chains that do not wait for one another hide the latency of each.
struct Chains { a: vec4f, b: vec4f, c: vec4f, d: vec4f, e: vec4f, f: vec4f, g: vec4f, h: vec4f }

fn advance(x: Chains, m: vec4f, n: vec4f) -> Chains {
    return Chains(
        fma(x.a, m, n), fma(x.b, m, n), fma(x.c, m, n), fma(x.d, m, n),
        fma(x.e, m, n), fma(x.f, m, n), fma(x.g, m, n), fma(x.h, m, n),
    );
}

// ROUNDS * 8 advances of 32 multiply-adds each, for each thread.
const ROUNDS = 128u;

@compute @workgroup_size(THREADS)
fn multiply_add(@builtin(global_invocation_id) global: vec3u) {
    // Read from memory, so that no compiler can compute the chains beforehand.
    let m = source[0];
    let n = source[1];
    let s = vec4f(f32(global.x));
    var x = Chains(s, s + 1.0, s + 2.0, s + 3.0, s + 4.0, s + 5.0, s + 6.0, s + 7.0);
    for (var i = 0u; i < ROUNDS; i++) {
        x = advance(x, m, n);
        x = advance(x, m, n);
        x = advance(x, m, n);
        x = advance(x, m, n);
        x = advance(x, m, n);
        x = advance(x, m, n);
        x = advance(x, m, n);
        x = advance(x, m, n);
    }
    target_[global.x % arrayLength(&target_)] = x.a + x.b + x.c + x.d + x.e + x.f + x.g + x.h;
}

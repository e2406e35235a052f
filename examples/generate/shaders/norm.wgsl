// y = x / sqrt(mean(x²) + 1e-5) gamma, of each part of WIDTH elements of a row. A workgroup takes a
// part.

override WIDTH: u32;
// Parts of a row.
override PARTS: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> gamma: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

const THREADS: u32 = 32u;
var<workgroup> squares: array<f32, THREADS>;

@compute @workgroup_size(THREADS)
fn norm(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let begin = (group.y * PARTS + group.x) * WIDTH;
    var sum = 0.0;
    for (var i = thread; i < WIDTH; i += THREADS) {
        sum += x[begin + i] * x[begin + i];
    }
    squares[thread] = sum;
    for (var half = THREADS / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if thread < half {
            squares[thread] += squares[thread + half];
        }
    }
    workgroupBarrier();
    let factor = inverseSqrt(squares[0] / f32(WIDTH) + 1e-5);
    for (var i = thread; i < WIDTH; i += THREADS) {
        y[begin + i] = x[begin + i] * factor * gamma[i];
    }
}

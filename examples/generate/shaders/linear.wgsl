// y = activation(x W + bias), or y += .., with W [INPUTS,OUTPUTS]. A workgroup takes 16 columns of 4
// rows: with a token a sequence there are few rows, so 8 threads share the sum of a column.

override INPUTS: u32;
override OUTPUTS: u32;
// 0 none, 1 silu, 2 sigmoid, 3 decay.
override ACTIVATION: u32;
// 1 adds to y.
override ADDS: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<f32>;
// bias [OUTPUTS], and after it the rates of decays [OUTPUTS].
@group(0) @binding(2) var<storage, read> bias: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;

const COLUMNS: u32 = 16u;
const SLICES: u32 = 8u;
const ROWS: u32 = 4u;
var<workgroup> sums: array<vec4<f32>, COLUMNS * SLICES>;

@compute @workgroup_size(COLUMNS, SLICES)
fn linear(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_id) thread: vec3<u32>,
) {
    let column = group.x * COLUMNS + thread.x;
    let row = group.y * ROWS;
    var sum = vec4<f32>();
    if column < OUTPUTS {
        for (var i = thread.y; i < INPUTS; i += SLICES) {
            let at = row * INPUTS + i;
            // Buffers end after a multiple of four rows; those not in use may hold anything.
            let inputs = vec4<f32>(x[at], x[at + INPUTS], x[at + 2u * INPUTS], x[at + 3u * INPUTS]);
            sum += weights[i * OUTPUTS + column] * inputs;
        }
    }
    sums[thread.y * COLUMNS + thread.x] = sum;
    workgroupBarrier();
    // Of the eight threads of a column, the first four end a row each.
    if thread.y >= ROWS || column >= OUTPUTS {
        return;
    }
    var total = bias[column];
    for (var slice = 0u; slice < SLICES; slice++) {
        total += sums[slice * COLUMNS + thread.x][thread.y];
    }
    let at = (row + thread.y) * OUTPUTS + column;
    if ACTIVATION == 1u {
        total = total / (1.0 + exp(-total));
    } else if ACTIVATION == 2u {
        total = 1.0 / (1.0 + exp(-total));
    } else if ACTIVATION == 3u {
        total = -bias[OUTPUTS + column] * (max(total, 0.0) + log(1.0 + exp(-abs(total))));
    }
    if ADDS == 1u {
        total += y[at];
    }
    y[at] = total;
}

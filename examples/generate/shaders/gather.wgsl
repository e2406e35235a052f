// y[i] = x[index[i]], rows of WIDTH elements; a thread takes an element.

override WIDTH: u32;

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(64)
fn gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let column = group.x * 64u + thread;
    let row = group.y;
    if column < WIDTH {
        y[row * WIDTH + column] = x[index[row] * WIDTH + column];
    }
}

// Causal softmax attention, in one pass over keys: o_i = Σ_{j<=i} e^(q_i . k_j / √K) v_j / Σ_{j<=i} ..
// K = V = 64; q, k, v and o are [T,H,64]. A thread takes a query, with its row of q and its sum of
// rows of v in registers; a workgroup takes 64 queries that follow each other, and brings 32 keys and
// values at a time to workgroup memory.

override TOKENS: u32;
override HEADS: u32;

@group(0) @binding(0) var<storage, read> q: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> k: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> v: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> o: array<vec4<f32>>;

const QUERIES: u32 = 64u;
const KEYS: u32 = 32u;
const WIDTH: u32 = 16u;
var<workgroup> keys: array<vec4<f32>, KEYS * WIDTH>;
var<workgroup> values: array<vec4<f32>, KEYS * WIDTH>;

@compute @workgroup_size(QUERIES)
fn softmax(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let head = group.y;
    // The longest rows begin first.
    let block = (TOKENS + QUERIES - 1u) / QUERIES - 1u - group.x;
    let i = block * QUERIES + thread;
    let end = min((block + 1u) * QUERIES, TOKENS);
    var query: array<vec4<f32>, WIDTH>;
    var sum: array<vec4<f32>, WIDTH>;
    for (var c = 0u; c < WIDTH; c++) {
        query[c] = 0.125 * q[(min(i, TOKENS - 1u) * HEADS + head) * WIDTH + c];
        sum[c] = vec4<f32>();
    }
    // Of the weights so far: the largest exponent, and their sum over e^largest.
    var largest = -1e30;
    var total = 0.0;
    for (var first = 0u; first < end; first += KEYS) {
        workgroupBarrier();
        for (var at = thread; at < KEYS * WIDTH; at += QUERIES) {
            let j = min(first + at / WIDTH, TOKENS - 1u);
            let source = (j * HEADS + head) * WIDTH + at % WIDTH;
            keys[at] = k[source];
            values[at] = v[source];
        }
        workgroupBarrier();
        // Keys after the query have no part in it.
        let count = min(KEYS, max(i + 1u, first) - first);
        for (var j = 0u; j < count; j += 4u) {
            var logits = vec4<f32>();
            for (var c = 0u; c < WIDTH; c++) {
                let at = j * WIDTH + c;
                logits += vec4<f32>(
                    dot(query[c], keys[at]),
                    dot(query[c], keys[at + WIDTH]),
                    dot(query[c], keys[at + 2u * WIDTH]),
                    dot(query[c], keys[at + 3u * WIDTH]),
                );
            }
            let is_seen = vec4<u32>(j, j + 1u, j + 2u, j + 3u) < vec4<u32>(count);
            logits = select(vec4<f32>(-1e30), logits, is_seen);
            let most = max(largest, max(max(logits.x, logits.y), max(logits.z, logits.w)));
            let scale = exp(largest - most);
            let weights = exp(logits - most);
            largest = most;
            total = total * scale + weights.x + weights.y + weights.z + weights.w;
            for (var c = 0u; c < WIDTH; c++) {
                let at = j * WIDTH + c;
                sum[c] = sum[c] * scale + weights.x * values[at] + weights.y * values[at + WIDTH]
                    + weights.z * values[at + 2u * WIDTH] + weights.w * values[at + 3u * WIDTH];
            }
        }
    }
    if i < TOKENS {
        for (var c = 0u; c < WIDTH; c++) {
            o[(i * HEADS + head) * WIDTH + c] = sum[c] / total;
        }
    }
}

// A step of the birds: each turns towards the mean heading that attention gave it in the last
// frame, flies on, and becomes a token of this frame.

struct Step {
    frame: u32,
    birds: u32,
}

const SPEED = 0.0035;  // of the field, a frame
const PULL = 0.2;      // of the others' heading
const JITTER = 0.45;   // radians
const MARGIN = 0.16;   // of the field, in which the walls push
const PUSH = 0.2;

@group(0) @binding(0) var<uniform> step: Step;
@group(0) @binding(1) var<storage, read_write> q: array<vec2<f32>>; // [T,2]
@group(0) @binding(2) var<storage, read_write> k: array<vec2<f32>>; // [T,2], positions
@group(0) @binding(3) var<storage, read_write> v: array<vec2<f32>>; // [T,2], headings
@group(0) @binding(4) var<storage, read_write> o: array<vec2<f32>>; // [T,2], only read

fn random(x: u32) -> f32 {
    var h = x * 0x9E3779B9u;
    h = (h ^ (h >> 16u)) * 0x85EBCA6Bu;
    h = (h ^ (h >> 13u)) * 0xC2B2AE35u;
    return f32((h ^ (h >> 16u)) >> 8u) / 16777216.0;
}

fn inward(position: vec2<f32>) -> vec2<f32> {
    let low = saturate((MARGIN - position) / MARGIN);
    let high = saturate((position - (1.0 - MARGIN)) / MARGIN);
    return low - high;
}

@compute @workgroup_size(64)
fn fly(@builtin(global_invocation_id) id: vec3<u32>) {
    let bird = id.x;
    if (bird >= step.birds) { return; }
    let position = k[bird];
    let turn = JITTER * (2.0 * random(step.frame * step.birds + bird) - 1.0);
    let pulled = v[bird] + PULL * o[bird] + PUSH * inward(position);
    let turned = vec2(
        pulled.x * cos(turn) - pulled.y * sin(turn),
        pulled.x * sin(turn) + pulled.y * cos(turn),
    );
    let heading = turned / max(length(turned), 1e-6);
    let flown = clamp(position + SPEED * heading, vec2(0.0), vec2(1.0));
    q[bird] = flown;
    k[bird] = flown;
    v[bird] = heading;
}

//! Small shaders: what they compute, and what is wrong with them.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use linear_attention_interpreter::{
    Buffer, Checks, Fault, FaultKind, Memory, Shader, View, dispatch,
};

/// Runs `body` in two workgroups of four invocations, with eight words of storage of which the last
/// four are undefined, and four of workgroup memory.
fn run(body: &str) -> Result<Vec<u32>, Fault> {
    let shader = Shader::parse(&format!(
        "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @group(0) @binding(2) var<storage, read_write> count: atomic<u32>;
        var<workgroup> shared_words: array<u32, 4>;
        var<workgroup> shared_word: u32;
        fn square(x: ptr<function, f32>) -> f32 {{ *x *= *x; return *x; }}
        @compute @workgroup_size(4)
        fn main(@builtin(workgroup_id) id: vec3<u32>, @builtin(local_invocation_index) i: u32) {{
            let g = 4u * id.x + i;
            {body}
        }}"
    ))?;
    let mut memory = Memory::default();
    let a = memory.add(Buffer::new("a", (0..8).collect()));
    let b = memory.add(Buffer::undefined("b", 8));
    let count = memory.add(Buffer::new("count", vec![0]));
    let views = [(0, a, 8), (1, b, 8), (2, count, 1)];
    let views = views.map(|(binding, buffer, len)| View { binding, buffer, begin: 0, len });
    dispatch(&shader, &views, &mut memory, [2, 1, 1], Checks::default())?;
    Ok([memory.buffer(b).words(), memory.buffer(count).words()].concat())
}

#[test]
fn results() {
    let of = |body: &str| run(body).unwrap()[..8].to_vec();
    assert_eq!(of("b[g] = a[7u - g] * 3u + (g << 2u);"), [21, 22, 23, 24, 25, 26, 27, 28]);
    assert_eq!(
        of("var n = 0u; for (var j = 0u; j < g; j++) { if (j == 5u) { break; } if (j == 1u) \
        { continue; } n += j; } b[g] = n;"),
        [0, 0, 0, 2, 5, 9, 9, 9]
    );
    assert_eq!(
        of("switch g { case 1u, 2u: { b[g] = 9u; } default: { b[g] = 1u; } }")[..4],
        [1, 9, 9, 1]
    );
    assert_eq!(
        of("var x = f32(g) - 1.5; let y = square(&x); b[g] = u32(y + x);")[..4],
        [4, 0, 0, 4]
    );
    assert_eq!(
        of("let v = vec4<f32>(1.0, 2.0, 3.0, 4.0); b[g] = u32(dot(v, v.wzyx) + v[i]);")[..2],
        [21, 22]
    );
    assert_eq!(of("b[g] = u32(all(vec2<u32>(g) < vec2<u32>(2u, 3u)));"), [1, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(
        of("shared_words[i] = g; workgroupBarrier(); b[g] = shared_words[3u - i];"),
        [3, 2, 1, 0, 7, 6, 5, 4]
    );
    assert_eq!(
        of("if (i == 0u) { shared_word = id.x; } b[g] = workgroupUniformLoad(&shared_word);")[3..5],
        [0, 1]
    );
    assert_eq!(of("b[g] = subgroupShuffleXor(g, 2u);"), [2, 3, 0, 1, 6, 7, 4, 5]);
    assert_eq!(run("atomicAdd(&count, g); b[g] = 0u;").unwrap()[8], 28);
}

#[test]
fn faults() {
    use FaultKind::{
        Barrier, DivisionByZero, Endless, OutOfBounds, Race, SeveralWriters, Shift, Uninitialised,
        Unsupported,
    };
    for (kind, body) in [
        (OutOfBounds, "b[g] = a[g + 1u];"),
        (OutOfBounds, "b[g + 1u] = 0u;"),
        (OutOfBounds, "shared_words[g] = 0u;"),
        (OutOfBounds, "var x = array<u32, 3>(); b[g] = x[i];"),
        (OutOfBounds, "let x = vec2<u32>(); b[g] = x[i];"),
        (Uninitialised, "a[g] = b[g];"),
        (Uninitialised, "b[g] = shared_words[i];"),
        (Race, "a[g ^ 1u] = a[g];"),
        (Race, "shared_words[i] = g; b[g] = shared_words[3u - i];"),
        // The barrier is one of workgroup memory, not of storage.
        (Race, "a[g] = 0u; workgroupBarrier(); b[g] = a[g ^ 1u];"),
        // No barrier is between workgroups.
        (Race, "a[g] = 0u; storageBarrier(); b[g] = a[g ^ 4u];"),
        (SeveralWriters, "b[i] = 0u;"),
        (
            SeveralWriters,
            "if (i == 0u) { b[0] = 0u; } storageBarrier(); if (i == 1u) { b[0] = 0u; }",
        ),
        (Barrier, "if (i > 0u) { workgroupBarrier(); }"),
        (Barrier, "if (i > 0u) { return; } storageBarrier();"),
        (Barrier, "if (i > 0u) { b[g] = subgroupShuffleXor(g, 1u); }"),
        (OutOfBounds, "b[g] = subgroupShuffleXor(g, 4u);"),
        (Endless, "var n = 1u; while (n > 0u) { n = 1u + n % 2u; }"),
        (DivisionByZero, "b[g] = a[g] / g;"),
        (Shift, "b[g] = a[g] << (g + 30u);"),
        (Unsupported, "b[g] = unknown;"),
    ] {
        let found = run(body).unwrap_err();
        assert_eq!(found.kind, kind, "{body}: {found}");
    }
    let fault = run("\n\nb[g] = a[g + 1u];").unwrap_err();
    assert_eq!(fault.line, 12);
}

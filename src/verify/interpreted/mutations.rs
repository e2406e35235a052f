//! Mistakes in index arithmetic, bounds and barriers, each of which the interpreter must report.

use linear_attention_interpreter::FaultKind;

/// A mistake: the text it replaces in a module, the text in its place, and what it leads to.
pub(super) struct Mistake {
    pub(super) name: &'static str,
    pub(super) from: &'static str,
    pub(super) to: &'static str,
    pub(super) kinds: &'static [FaultKind],
    /// It shows only where scratch was written to between the stages.
    pub(super) needs_spoilt_scratch: bool,
}

use FaultKind::{
    Barrier, DivisionByZero, Endless, OutOfBounds, Race, SeveralWriters, Uninitialised,
};

const fn mistake(
    name: &'static str,
    from: &'static str,
    to: &'static str,
    kinds: &'static [FaultKind],
) -> Mistake {
    Mistake { name, from, to, kinds, needs_spoilt_scratch: false }
}

pub(super) const MISTAKES: &[Mistake] = &[
    mistake(
        "rows of v are one further on",
        "return row_begin(params.v, t, e); }",
        "return row_begin(params.v, t, e + 1u); }",
        &[OutOfBounds],
    ),
    mistake(
        "all heads have one row of o",
        "return row_begin(params.o, t, h); }",
        "return row_begin(params.o, t, 0u * h); }",
        &[SeveralWriters, Race],
    ),
    mistake(
        "work items beyond the last sequence are active",
        "item.is_active = n < params.sequences;",
        "item.is_active = true;",
        &[OutOfBounds],
    ),
    mistake(
        "threads beyond the last row of o go on",
        "if (t >= params.total_tokens) { return; }",
        "",
        &[OutOfBounds],
    ),
    mistake(
        "the last vec4 of a row of mu is stored whole",
        "if (column + 1u < VALUE_DIM) { state_out[i + 1u] = x.y; }",
        "state_out[i + 1u] = x.y;",
        &[OutOfBounds, SeveralWriters, Race],
    ),
    mistake(
        "a last chunk is as long as the others",
        "next = Chunk(end, min(params.chunk_len, stop - end));",
        "next = Chunk(end, select(0u, params.chunk_len, end < stop));",
        &[OutOfBounds, SeveralWriters, Race],
    ),
    mistake(
        "a chunk has a row of queries too many",
        "fn query_features(row: u32) -> u32 { return (CHUNK_TOKENS + row) * BLOCK_VEC4; }",
        "fn query_features(row: u32) -> u32 { return (CHUNK_TOKENS + row + 1u) * BLOCK_VEC4; }",
        &[OutOfBounds],
    ),
    mistake(
        "rows of k and v are read past their last element",
        "min(vec4<u32>(4u * x4) + vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(width - 1u))",
        "vec4<u32>(4u * x4) + vec4<u32>(0u, 1u, 2u, 3u)",
        &[OutOfBounds],
    ),
    mistake(
        "a scan reads one segment too many",
        "segment < last; segment++",
        "segment <= last; segment++",
        &[OutOfBounds, Uninitialised, Race],
    ),
    mistake(
        "segments of neighbouring sequences overlap",
        "return n + begin / params.segment_len;",
        "return begin / params.segment_len;",
        &[SeveralWriters, Race, Uninitialised],
    ),
    mistake(
        "an interval ends beyond the tokens",
        "sequence.end = max(sequence.begin, min(end, params.total_tokens));",
        "sequence.end = max(sequence.begin, end);",
        &[OutOfBounds, SeveralWriters],
    ),
    mistake(
        "any slot is in the pool",
        "let is_in_pool = sequence.state < params.states && sequence.source < params.states;",
        "let is_in_pool = true;",
        &[OutOfBounds],
    ),
    mistake(
        "two sequences may have one slot",
        "    if (owner != n) {\n        mark_conflict(n);\n        mark_conflict(owner);\n    }",
        "",
        &[SeveralWriters, Race],
    ),
    Mistake {
        name: "the table is trusted",
        from: "if (is_valid) { return entry; }",
        to: "return entry;",
        kinds: &[OutOfBounds, Endless],
        needs_spoilt_scratch: true,
    },
    mistake(
        "blocks of heads all store the state",
        "if (item.first_head != item.head * params.group) { return; }",
        "",
        &[SeveralWriters],
    ),
    mistake(
        "a store of f16 clears the whole word",
        "atomicAnd(&o[i / 2u], ~(0xFFFFu << shift));",
        "atomicAnd(&o[i / 2u], 0u);",
        &[SeveralWriters],
    ),
    mistake(
        "columns beyond V read a value that another thread writes",
        "(FULL_COLUMNS || 4u * c4 < VALUE_DIM)",
        "true",
        &[Race],
    ),
    mistake(
        "no barrier before the next chunk",
        "fn wait_for_readers() { workgroupBarrier(); }",
        "fn wait_for_readers() {}",
        &[Race],
    ),
    mistake(
        "no barrier between weights and their sums",
        "    workgroupBarrier();\n    if (NORMALIZE) {",
        "    if (NORMALIZE) {",
        &[Race, Uninitialised],
    ),
    mistake(
        "nu is stored before all have read it",
        "fn wait_for_readers_of_nu() { storageBarrier(); }",
        "fn wait_for_readers_of_nu() {}",
        &[Race],
    ),
    mistake(
        "a barrier that one thread goes around",
        "    wait_for_readers();\n    write_sums(",
        "    if (lane.thread > 0u) { wait_for_readers(); }\n    write_sums(",
        &[Barrier],
    ),
    mistake(
        "some threads leave before a barrier",
        "    let lane = lane_of(thread_of_item(thread));\n    if (!item.has_sequence) {",
        "    let lane = lane_of(thread_of_item(thread));\n    if (lane.thread > 1u) { return; }\n\
         \x20   if (!item.has_sequence) {",
        &[Barrier],
    ),
    mistake(
        "no barrier behind the rows of a chunk",
        "    workgroupBarrier();\n    if (!SCALES_QUERIES || heads == 0u) { return; }",
        "    if (!SCALES_QUERIES || heads == 0u) { return; }",
        &[Race, Uninitialised],
    ),
    mistake(
        "all lanes write a row",
        "let row = 0u * LANES + lane.index;",
        "let row = 0u * LANES;",
        &[SeveralWriters],
    ),
    mistake("nu is not cleared", "    clear_chunk_nu(&state, lane);\n", "", &[Uninitialised]),
    mistake(
        "a chunk of no token",
        "let end = chunk.first + chunk.tokens;",
        "let end = chunk.first;",
        &[Endless],
    ),
    mistake(
        "a size that may be zero divides",
        "let s = segment % segments;",
        "let s = segment % (segments - 1u);",
        &[DivisionByZero],
    ),
];

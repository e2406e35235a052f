// Rows of the tensors. Tokens count through all sequences.

import constants::{HAS_BATCH_STRIDES};
import params::{Rows, params};

// The first element of a row of q, of a query head.
fn query_begin(t: u32, head: u32) -> u32 { return row_begin(params.q, t, head); }

// Of k, of a key head.
fn key_begin(t: u32, head: u32) -> u32 { return row_begin(params.k, t, head); }

// Of v.
fn value_begin(t: u32, e: u32) -> u32 { return row_begin(params.v, t, e); }

// Of o.
fn output_begin(t: u32, h: u32) -> u32 { return row_begin(params.o, t, h); }

// In accesses of `rows`: vec4s or elements. Rows of the batch that follow one another as tokens do
// need no division.
fn row_begin(rows: Rows, t: u32, head: u32) -> u32 {
    var begin = rows.offset + t * rows.token + head * rows.head;
    if (HAS_BATCH_STRIDES) { begin += t / params.seq_len * rows.batch; }
    return begin;
}

// The row of decays and betas of a value head, which lie side by side.
fn gate_row(t: u32, e: u32) -> u32 { return t * params.value_heads + e; }

// The row of partial sums of an output head.
fn output_row(t: u32, h: u32) -> u32 { return t * params.output_heads + h; }

// The key head that value head e reads, and the query head of output head h.
fn key_head(e: u32) -> u32 { return e / params.key_group; }
fn query_head(h: u32) -> u32 { return h / params.query_group; }

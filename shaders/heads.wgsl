// Rows of the tensors, seen as [tokens x heads, width]. Tokens count through all sequences.

import params::{params};

// Row of k, for value head e.
fn key_row(t: u32, e: u32) -> u32 { return t * params.key_heads + key_head(e); }

// Row of v.
fn value_row(t: u32, e: u32) -> u32 { return t * params.value_heads + e; }

// Row of q, for output head h.
fn query_row(t: u32, h: u32) -> u32 { return t * params.heads + query_head(h); }

// Row of o.
fn output_row(t: u32, h: u32) -> u32 { return t * params.output_heads + h; }

fn key_head(e: u32) -> u32 { return e / params.key_group; }

fn query_head(h: u32) -> u32 { return h / params.query_group; }

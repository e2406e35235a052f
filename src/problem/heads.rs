//! Rows of the tensors, seen as `[tokens x heads, width]`: the same as `shaders/heads.wgsl`. Tokens count
//! through all sequences.

use crate::problem::shape::Shape;

#[derive(Clone, Copy)]
pub(crate) struct Heads {
    /// H.
    pub(crate) query: usize,
    /// G.
    pub(crate) key: usize,
    /// E.
    pub(crate) value: usize,
    /// max(H,E).
    pub(crate) output: usize,
    /// Output heads of a value head.
    pub(crate) value_group: usize,
    query_group: usize,
    key_group: usize,
}

impl Heads {
    /// Of a shape that `lens` accepts.
    pub(crate) fn new(shape: &Shape) -> Self {
        Self {
            query: shape.heads as usize,
            key: shape.key_heads as usize,
            value: shape.value_heads as usize,
            output: shape.output_heads() as usize,
            value_group: shape.value_group() as usize,
            query_group: shape.query_group() as usize,
            key_group: shape.key_group() as usize,
        }
    }

    /// Row of q of token t, for output head h.
    pub(crate) fn query_row(&self, t: usize, h: usize) -> usize {
        t * self.query + self.query_head(h)
    }

    /// Row of k of token t, for value head e.
    pub(crate) fn key_row(&self, t: usize, e: usize) -> usize {
        t * self.key + self.key_head(e)
    }

    /// Row of v of token t and value head e.
    pub(crate) fn value_row(&self, t: usize, e: usize) -> usize {
        t * self.value + e
    }

    /// Row of o of token t and output head h.
    pub(crate) fn output_row(&self, t: usize, h: usize) -> usize {
        t * self.output + h
    }

    /// The query head of output head h.
    pub(crate) fn query_head(&self, h: usize) -> usize {
        h / self.query_group
    }

    /// The value head that output head h reads.
    pub(crate) fn value_head(&self, h: usize) -> usize {
        h / self.value_group
    }

    /// The key head of value head e.
    pub(crate) fn key_head(&self, e: usize) -> usize {
        e / self.key_group
    }
}

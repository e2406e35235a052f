//! Rows of the tensors for a token and a head: the same as `shaders/heads.wgsl`. Tokens count
//! through all sequences.

use crate::problem::config::Config;
use crate::problem::shape::Shape;
use crate::problem::strides::Strides;
use crate::problem::tensor::Tensor;

#[derive(Clone, Copy)]
pub(crate) struct Heads {
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
    pub(crate) q: Rows,
    pub(crate) k: Rows,
    pub(crate) v: Rows,
    pub(crate) o: Rows,
}

/// The rows of a tensor.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    offset: usize,
    /// Elements from one row of the batch to the next.
    batch: usize,
    /// From one token to the next.
    pub(crate) token: usize,
    /// From one head to the next.
    pub(crate) head: usize,
    /// T, where the tokens of the batch do not follow one another.
    seq_len: Option<usize>,
}

impl Rows {
    fn new(strides: Strides, shape: &Shape) -> Self {
        let is_flat = strides.is_flat(shape.batch, shape.seq_len);
        Self {
            offset: strides.offset as usize,
            batch: strides.batch as usize,
            token: strides.token as usize,
            head: strides.head as usize,
            seq_len: (!is_flat).then_some(shape.seq_len.max(1) as usize),
        }
    }

    /// The first element of a row.
    #[inline(always)]
    pub(crate) fn begin(&self, t: usize, head: usize) -> usize {
        let in_batch = match self.seq_len {
            None => t * self.token,
            Some(seq_len) => t / seq_len * self.batch + t % seq_len * self.token,
        };
        self.offset + in_batch + head * self.head
    }
}

impl Heads {
    /// Of a shape that `lens` accepts.
    pub(crate) fn new(config: &Config, shape: &Shape) -> Self {
        let rows = |tensor: Tensor| Rows::new(shape.strides_of(config, tensor), shape);
        Self {
            key: shape.key_heads as usize,
            value: shape.value_heads as usize,
            output: shape.output_heads() as usize,
            value_group: shape.value_group() as usize,
            query_group: shape.query_group() as usize,
            key_group: shape.key_group() as usize,
            q: rows(Tensor::Q),
            k: rows(Tensor::K),
            v: rows(Tensor::V),
            o: rows(Tensor::O),
        }
    }

    /// H.
    #[cfg(feature = "cpu")]
    pub(crate) fn query_heads(&self) -> usize {
        self.output / self.query_group
    }

    /// The first element of the row of q of token t, for output head h.
    pub(crate) fn query(&self, t: usize, h: usize) -> usize {
        self.q.begin(t, self.query_head(h))
    }

    /// Of k, for value head e.
    pub(crate) fn key(&self, t: usize, e: usize) -> usize {
        self.k.begin(t, self.key_head(e))
    }

    /// Of v, of value head e.
    pub(crate) fn value(&self, t: usize, e: usize) -> usize {
        self.v.begin(t, e)
    }

    /// Of o, of output head h.
    pub(crate) fn output(&self, t: usize, h: usize) -> usize {
        self.o.begin(t, h)
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

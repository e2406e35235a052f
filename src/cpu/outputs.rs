//! o, in the type that it is stored in.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::cpu::shared::{Parts, Shared};
use crate::cpu::slices::{SliceMut, bf16_bits, round};
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::shape::{Lens, Shape};
use crate::problem::strides::Strides;
use crate::problem::tensor::Tensor;

/// Tokens of a part of o. Threads go through tokens at about the same time.
const TOKENS_OF_PART: usize = 4;

/// o, in rows that threads share.
pub(super) struct Outputs<'a> {
    pub(super) rows: OutputRows,
    memory: Memory<'a>,
}

enum Memory<'a> {
    F32(Shared<'a, f32>, Dtype),
    F16(Shared<'a, f16>),
    Bf16(Shared<'a, bf16>),
}

/// The rows of o: one for each token and, where the batch or heads come before tokens in memory,
/// one for each of those, too. Dimensions after tokens are within a row.
#[derive(Clone, Copy, Debug)]
pub(super) struct OutputRows {
    /// The elements from the first row to the end of the last.
    begin: usize,
    end: usize,
    /// Elements from one token to the next.
    len: usize,
    /// T.
    seq_len: usize,
    /// Dimensions before tokens: their sizes and strides, the outer one first.
    outer: [(usize, usize); 2],
    /// Distances of batch rows and of heads in `outer`; 0 where they are within a row.
    of_batch: usize,
    of_head: usize,
    /// Elements from one row of the batch to the next, and from one head to the next, in a row; 0
    /// where each has rows of its own.
    batch_in_row: usize,
    pub(super) in_row: usize,
    heads: usize,
    value_dim: usize,
}

impl OutputRows {
    /// Of a shape that `lens` accepts: each stride goes beyond all that the smaller ones reach.
    pub(super) fn new(config: &Config, shape: &Shape, lens: &Lens) -> Self {
        let Strides { offset, batch, token, head } = shape.strides_of(config, Tensor::O);
        let [batch, mut len, head] = [batch, token, head].map(|n| n as usize);
        let (heads, value_dim) = (shape.output_heads() as usize, config.value_dim as usize);
        let (mut count, mut seq_len) = (shape.batch as usize, shape.seq_len as usize);
        if seq_len <= 1 && count > 1 {
            // Rows of the batch are treated as tokens.
            (len, seq_len, count) = (batch, count * seq_len, 1);
        } else if batch == seq_len * len {
            (seq_len, count) = (seq_len * count, 1);
        }
        // The stride of a dimension of size 1 is not used.
        let head = if heads == 1 { value_dim } else { head };
        if seq_len <= 1 {
            len = (heads - 1) * head + value_dim;
        }
        let (batch_is_outer, head_is_outer) = (count > 1 && batch > len, heads > 1 && head > len);
        let of_batch = (if batch_is_outer { count } else { 1 }, batch);
        let of_head = (if head_is_outer { heads } else { 1 }, head);
        let is_batch_first = batch >= head;
        Self {
            begin: (offset as usize).min(lens.o as usize),
            end: lens.o as usize,
            len: len.max(1),
            seq_len: seq_len.max(1),
            outer: if is_batch_first { [of_batch, of_head] } else { [of_head, of_batch] },
            of_batch: match (batch_is_outer, is_batch_first) {
                (false, _) => 0,
                (true, true) => of_head.0,
                (true, false) => 1,
            },
            of_head: match (head_is_outer, is_batch_first) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => of_batch.0,
            },
            batch_in_row: if batch_is_outer || count == 1 { 0 } else { batch },
            in_row: if head_is_outer { 0 } else { head },
            heads,
            value_dim,
        }
    }

    /// Parts of the rows of each of `outer`.
    fn parts(&self) -> usize {
        self.seq_len.div_ceil(TOKENS_OF_PART)
    }

    fn row(&self, token: usize, head: usize) -> usize {
        let outer = token / self.seq_len * self.of_batch + head * self.of_head;
        outer * self.parts() * TOKENS_OF_PART + token % self.seq_len
    }

    /// The offsets of the rows of a token's batch in a row.
    fn in_batch(&self, token: usize) -> usize {
        token / self.seq_len * self.batch_in_row
    }

    /// A slice in parts.
    fn shared<'a, T>(&self, o: &'a mut [T], parts: &mut Parts<'static, T>) -> Shared<'a, T> {
        let [(first, of_first), (second, of_second)] = self.outer;
        // A dimension of size 1 is one chunk, whatever its stride is.
        let stride = |count: usize, stride: usize| if count > 1 { stride } else { usize::MAX };
        let (of_first, of_second) = (stride(first, of_first), stride(second, of_second));
        let (of_part, count) = (TOKENS_OF_PART * self.len, self.parts());
        let of_outer = o[self.begin..self.end].chunks_mut(of_first).take(first);
        let of_outer = of_outer.flat_map(|o| o.chunks_mut(of_second).take(second));
        let all = of_outer.flat_map(|o| o.chunks_mut(of_part).take(count));
        Shared::new(all, (self.len, TOKENS_OF_PART), parts)
    }
}

/// The memory of o's parts.
#[derive(Debug, Default)]
pub(super) struct OutputParts {
    of_f32: Parts<'static, f32>,
    of_f16: Parts<'static, f16>,
    of_bf16: Parts<'static, bf16>,
}

/// The pieces of a row that a thread writes.
pub(super) struct Pieces<I> {
    /// The offset of each in a row of o.
    pub(super) begins: I,
    pub(super) len: usize,
    /// Elements from one to the next in what was computed.
    pub(super) stride: usize,
}

impl OutputParts {
    /// For such rows, in f32 or the type that the config says.
    pub(super) fn new(rows: &OutputRows, dtype: Dtype) -> Self {
        let [(first, _), (second, _)] = rows.outer;
        let parts = first * second * rows.parts();
        let of = |is_used: bool| if is_used { parts } else { 0 };
        Self {
            of_f32: Parts::with_capacity(parts),
            of_f16: Parts::with_capacity(of(dtype == Dtype::F16)),
            of_bf16: Parts::with_capacity(of(dtype == Dtype::Bf16)),
        }
    }
}

impl<'a> Outputs<'a> {
    pub(super) fn new(
        o: SliceMut<'a>,
        rows: OutputRows,
        dtype: Dtype,
        parts: &mut OutputParts,
    ) -> Self {
        let memory = match o {
            SliceMut::F32(o) => Memory::F32(rows.shared(o, &mut parts.of_f32), dtype),
            SliceMut::F16(o) => Memory::F16(rows.shared(o, &mut parts.of_f16)),
            SliceMut::Bf16(o) => Memory::Bf16(rows.shared(o, &mut parts.of_bf16)),
        };
        Self { rows, memory }
    }

    /// Gives the memory of the parts back.
    pub(super) fn finish(self, parts: &mut OutputParts) {
        match self.memory {
            Memory::F32(o, _) => parts.of_f32 = o.into_parts(),
            Memory::F16(o) => parts.of_f16 = o.into_parts(),
            Memory::Bf16(o) => parts.of_bf16 = o.into_parts(),
        }
    }

    /// Writes pieces of the rows of tokens of a sequence, of a head that has its own, from
    /// `row(token)`. `turn` is as for [`Shared::write`].
    #[inline(always)]
    pub(super) fn write<'b>(
        &self,
        tokens: Range<usize>,
        (head, turn): (usize, usize),
        Pieces { begins, len, stride }: Pieces<impl Iterator<Item = usize> + Clone>,
        row: impl Fn(usize) -> &'b [f32],
    ) {
        let (first, in_batch) =
            (self.rows.row(tokens.start, head), self.rows.in_batch(tokens.start));
        let rows = first..first + tokens.len();
        let pieces = |at: usize| {
            let from = row(at - first + tokens.start).chunks(stride).map(|from| &from[..len]);
            begins.clone().map(|begin| in_batch + begin..in_batch + begin + len).zip(from)
        };
        match &self.memory {
            Memory::F32(o, dtype) => o.write(rows, turn, |t, o| {
                for (to, from) in pieces(t) {
                    o[to.clone()].copy_from_slice(from);
                    round(&mut o[to], *dtype);
                }
            }),
            Memory::F16(o) => o.write(rows, turn, |t, o| {
                pieces(t).for_each(|(to, from)| o[to].convert_from_f32_slice(from));
            }),
            Memory::Bf16(o) => o.write(rows, turn, |t, o| {
                for (to, from) in pieces(t) {
                    for (o, x) in o[to].iter_mut().zip(from) {
                        *o = bf16::from_bits(bf16_bits(*x));
                    }
                }
            }),
        }
    }

    /// Sets rows of tokens, of any sequences, to zero.
    pub(super) fn clear(&self, tokens: Range<usize>) {
        let OutputRows { in_row, heads, value_dim, .. } = self.rows;
        let in_rows = if in_row > 0 { heads } else { 1 };
        let heads = 0..if in_row > 0 { 1 } else { heads };
        for (t, head) in tokens.flat_map(|t| heads.clone().map(move |head| (t, head))) {
            let row = self.rows.row(t, head);
            let (row, in_batch) = (row..row + 1, self.rows.in_batch(t));
            let pieces = || (0..in_rows).map(|head| in_batch + head * in_row);
            match &self.memory {
                Memory::F32(o, _) => {
                    o.write(row, 0, |_, o| pieces().for_each(|at| o[at..at + value_dim].fill(0.0)));
                }
                Memory::F16(o) => o.write(row, 0, |_, o| {
                    pieces().for_each(|at| o[at..at + value_dim].fill(f16::ZERO));
                }),
                Memory::Bf16(o) => o.write(row, 0, |_, o| {
                    pieces().for_each(|at| o[at..at + value_dim].fill(bf16::ZERO));
                }),
            }
        }
    }
}

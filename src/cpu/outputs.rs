//! o, in the type that it is stored in.

use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::cpu::shared::{Parts, Shared};
use crate::cpu::slices::{SliceMut, bf16_bits, round};
use crate::problem::dtype::Dtype;

/// Tokens of a part of o. Threads go through tokens at about the same time.
const TOKENS_OF_PART: usize = 4;

/// o as rows of all output heads of a token.
pub(super) enum Outputs<'a> {
    F32(Shared<'a, f32>, Dtype),
    F16(Shared<'a, f16>),
    Bf16(Shared<'a, bf16>),
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
    /// Where in a row of o each begins.
    pub(super) begins: I,
    pub(super) len: usize,
    /// Elements from one to the next in what was computed.
    pub(super) stride: usize,
}

impl OutputParts {
    /// For so many tokens, in f32 or the type that the config says.
    pub(super) fn new(tokens: usize, dtype: Dtype) -> Self {
        let parts = tokens.div_ceil(TOKENS_OF_PART);
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
        row_len: usize,
        dtype: Dtype,
        parts: &mut OutputParts,
    ) -> Self {
        match o {
            SliceMut::F32(o) => {
                Self::F32(Shared::new(o, row_len, TOKENS_OF_PART, &mut parts.of_f32), dtype)
            }
            SliceMut::F16(o) => {
                Self::F16(Shared::new(o, row_len, TOKENS_OF_PART, &mut parts.of_f16))
            }
            SliceMut::Bf16(o) => {
                Self::Bf16(Shared::new(o, row_len, TOKENS_OF_PART, &mut parts.of_bf16))
            }
        }
    }

    /// Gives the memory of the parts back.
    pub(super) fn finish(self, parts: &mut OutputParts) {
        match self {
            Self::F32(o, _) => parts.of_f32 = o.into_parts(),
            Self::F16(o) => parts.of_f16 = o.into_parts(),
            Self::Bf16(o) => parts.of_bf16 = o.into_parts(),
        }
    }

    /// Writes pieces of the rows of tokens, from `row(token)`. `turn` is as for [`Shared::write`].
    #[inline(always)]
    pub(super) fn write<'b>(
        &self,
        tokens: Range<usize>,
        turn: usize,
        Pieces { begins, len, stride }: Pieces<impl Iterator<Item = usize> + Clone>,
        row: impl Fn(usize) -> &'b [f32],
    ) {
        let pieces = |t: usize| {
            let from = row(t).chunks(stride).map(|from| &from[..len]);
            begins.clone().map(|begin| begin..begin + len).zip(from)
        };
        match self {
            Self::F32(o, dtype) => o.write(tokens, turn, |t, o| {
                for (to, from) in pieces(t) {
                    o[to.clone()].copy_from_slice(from);
                    round(&mut o[to], *dtype);
                }
            }),
            Self::F16(o) => o.write(tokens, turn, |t, o| {
                pieces(t).for_each(|(to, from)| o[to].convert_from_f32_slice(from));
            }),
            Self::Bf16(o) => o.write(tokens, turn, |t, o| {
                for (to, from) in pieces(t) {
                    for (o, x) in o[to].iter_mut().zip(from) {
                        *o = bf16::from_bits(bf16_bits(*x));
                    }
                }
            }),
        }
    }

    /// Sets rows of tokens to zero.
    pub(super) fn clear(&self, tokens: Range<usize>) {
        match self {
            Self::F32(o, _) => o.write(tokens, 0, |_, o| o.fill(0.0)),
            Self::F16(o) => o.write(tokens, 0, |_, o| o.fill(f16::ZERO)),
            Self::Bf16(o) => o.write(tokens, 0, |_, o| o.fill(bf16::ZERO)),
        }
    }
}

//! The element type of q, k, v and o.

use std::borrow::Cow;

use half::{bf16, f16};

/// The element type of q, k, v and o. The state, every sum and the division are f32 in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Dtype {
    /// 32-bit floating point.
    #[default]
    F32,
    /// 16-bit floating point, IEEE 754 binary16: 11 bits of precision, up to 65,504. Two to a
    /// 32-bit word; no feature of the device is needed.
    F16,
    /// 16-bit floating point, the upper half of an f32: 8 bits of precision. Two to a word.
    Bf16,
}

impl Dtype {
    /// Every way.
    pub const ALL: [Dtype; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of an element.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Bytes that a binding of `len` elements must have: whole 32-bit words.
    #[must_use]
    pub fn bytes(self, len: u64) -> u64 {
        len.saturating_mul(self.size()).next_multiple_of(4)
    }

    /// The name safetensors gives it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
        }
    }

    /// The dtype called `name`, as [`Dtype::name`] spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The nearest value that it can store, ties to even.
    #[must_use]
    pub fn round(self, x: f32) -> f32 {
        match self {
            Self::F32 => x,
            Self::F16 => f16::from_f32(x).to_f32(),
            Self::Bf16 => bf16::from_f32(x).to_f32(),
        }
    }

    /// The largest rounding error of storing x: half a unit in the last place. 0 for f32, whose
    /// rounding counts as that of arithmetic.
    #[must_use]
    pub fn half_ulp(self, x: f64) -> f64 {
        let exponent = |least: i32| {
            let exponent = if x == 0.0 { least } else { x.abs().log2().floor() as i32 };
            exponent.max(least)
        };
        match self {
            Self::F32 => 0.0,
            Self::F16 => f64::exp2(f64::from(exponent(-14) - 11)),
            Self::Bf16 => f64::exp2(f64::from(exponent(-126) - 8)),
        }
    }

    /// The bytes of a tensor as buffers hold it: rounded to the nearest, ties to even, and filled
    /// up with zeros to a whole word.
    #[must_use]
    pub fn encode(self, elements: &[f32]) -> Cow<'_, [u8]> {
        let mut bytes: Vec<u8> = match self {
            Self::F32 => return Cow::Borrowed(bytemuck::cast_slice(elements)),
            Self::F16 => {
                elements.iter().flat_map(|x| f16::from_f32(*x).to_bits().to_ne_bytes()).collect()
            }
            Self::Bf16 => {
                elements.iter().flat_map(|x| bf16::from_f32(*x).to_bits().to_ne_bytes()).collect()
            }
        };
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        Cow::Owned(bytes)
    }

    /// The first `len` elements of a tensor from its bytes: the reverse of [`Dtype::encode`], for
    /// the bytes of a [`Readback`](crate::Readback).
    #[must_use]
    pub fn decode(self, bytes: &[u8], len: usize) -> Vec<f32> {
        let halves = || bytes.chunks_exact(2).take(len).map(bytemuck::pod_read_unaligned::<u16>);
        match self {
            Self::F32 => {
                bytes.chunks_exact(4).take(len).map(bytemuck::pod_read_unaligned).collect()
            }
            Self::F16 => halves().map(|bits| f16::from_bits(bits).to_f32()).collect(),
            Self::Bf16 => halves().map(|bits| bf16::from_bits(bits).to_f32()).collect(),
        }
    }
}

//! Tensors as slices of the type that they are stored in.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::problem::dtype::Dtype;

/// A tensor to read. In f32 it is rounded to the type that the config says before anything is
/// computed.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_enums, reason = "one for each type that `Dtype` has")]
pub enum Slice<'a> {
    /// In f32.
    F32(&'a [f32]),
    /// In `f16`.
    F16(&'a [f16]),
    /// In `bf16`.
    Bf16(&'a [bf16]),
}

/// A tensor to write. In f32 it gets what the config's type can store.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "one for each type that `Dtype` has")]
pub enum SliceMut<'a> {
    /// In f32.
    F32(&'a mut [f32]),
    /// In `f16`.
    F16(&'a mut [f16]),
    /// In `bf16`.
    Bf16(&'a mut [bf16]),
}

macro_rules! from_slices {
    ($($variant:ident, $float:ty;)*) => {$(
        impl<'a> From<&'a [$float]> for Slice<'a> {
            fn from(slice: &'a [$float]) -> Self {
                Self::$variant(slice)
            }
        }

        impl<'a> From<&'a Vec<$float>> for Slice<'a> {
            fn from(slice: &'a Vec<$float>) -> Self {
                Self::$variant(slice)
            }
        }

        impl<'a> From<&'a mut [$float]> for SliceMut<'a> {
            fn from(slice: &'a mut [$float]) -> Self {
                Self::$variant(slice)
            }
        }

        impl<'a> From<&'a mut Vec<$float>> for SliceMut<'a> {
            fn from(slice: &'a mut Vec<$float>) -> Self {
                Self::$variant(slice)
            }
        }
    )*};
}
from_slices!(F32, f32; F16, f16; Bf16, bf16;);

impl<'a> Slice<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }

    /// An element, as `dtype` stores it.
    #[inline(always)]
    pub(super) fn get(&self, at: usize, dtype: Dtype) -> f32 {
        match self {
            Self::F32(x) => dtype.round(x[at]),
            Self::F16(x) => x[at].to_f32(),
            Self::Bf16(x) => x[at].to_f32(),
        }
    }

    /// The elements from `at` on that `to` has room for, as `dtype` stores them.
    #[inline(always)]
    pub(super) fn copy(&self, at: usize, dtype: Dtype, to: &mut [f32]) {
        let range = at..at + to.len();
        match self {
            Self::F32(x) if dtype == Dtype::F32 => to.copy_from_slice(&x[range]),
            Self::F32(x) => {
                for (to, x) in to.iter_mut().zip(&x[range]) {
                    *to = dtype.round(*x);
                }
            }
            Self::F16(x) => x[range].convert_to_f32_slice(to),
            // The upper half of an f32, in so many words that the loop becomes vectors.
            Self::Bf16(x) => {
                for (to, x) in to.iter_mut().zip(&x[range]) {
                    *to = f32::from_bits(u32::from(x.to_bits()) << 16);
                }
            }
        }
    }

    /// The same without a copy where none is needed.
    #[inline(always)]
    pub(super) fn row<'b>(&self, at: usize, dtype: Dtype, buffer: &'b mut [f32]) -> &'b [f32]
    where
        'a: 'b,
    {
        match self {
            Self::F32(x) if dtype == Dtype::F32 => &x[at..at + buffer.len()],
            _ => {
                self.copy(at, dtype, buffer);
                buffer
            }
        }
    }
}

impl SliceMut<'_> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::F32(x) => x.len(),
            Self::F16(x) => x.len(),
            Self::Bf16(x) => x.len(),
        }
    }

    pub(super) fn dtype(&self) -> Dtype {
        match self {
            Self::F32(_) => Dtype::F32,
            Self::F16(_) => Dtype::F16,
            Self::Bf16(_) => Dtype::Bf16,
        }
    }
}

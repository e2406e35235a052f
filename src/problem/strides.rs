//! The positions of rows in tensors that are not contiguous.

use crate::error::PlanError;
use crate::problem::config::Config;
use crate::problem::shape::Shape;
use crate::problem::tensor::Tensor;

/// The positions of the rows of a tensor: element i of the row of token t and head h, in row b of
/// the batch, is at `offset + b batch + t token + h head + i`, all counted in elements. A row is
/// contiguous.
///
/// Rows of q, k and v may lie anywhere, in one another's gaps or in one place; those of o must not
/// overlap. Where offset and strides are multiples of four, and K, V and F are, a row is read four
/// elements at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a literal names all four, and there are no more")]
pub struct Strides {
    /// Elements before the first row. It need not be a multiple of the device's alignment, as the
    /// offset of a binding must.
    pub offset: u32,
    /// From one row of the batch to the next.
    pub batch: u32,
    /// From one token to the next.
    pub token: u32,
    /// From one head to the next.
    pub head: u32,
}

/// The strides of q, k, v and o.
///
/// ```
/// use linear_attention::shape::TensorStrides;
/// use linear_attention::{Config, Shape};
///
/// let config = Config::new(64, 32);
/// // Two sequences of 100 tokens, 8 query heads, 2 key/value heads.
/// let shape = Shape::new(2, 100, 8).with_kv_heads(2);
/// // One projection wrote q, k and v of a token side by side: 8 * 64, 2 * 64 and 2 * 32 elements.
/// let fused = TensorStrides::fused(&config, &shape);
/// assert_eq!((fused.k.offset, fused.k.token, fused.k.head), (512, 704, 64));
/// // [B,H,T,D], as softmax attention's callers have them.
/// let mut strides = TensorStrides::heads_first(&config, &shape);
/// assert_eq!((strides.q.token, strides.q.head), (64, 6400));
/// // o as it would be by default.
/// strides.o = TensorStrides::contiguous(&config, &shape).o;
/// let shape = shape.with_strides(strides);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a literal names all four, and there are no more")]
pub struct TensorStrides {
    /// Of q.
    pub q: Strides,
    /// Of k.
    pub k: Strides,
    /// Of v.
    pub v: Strides,
    /// Of o.
    pub o: Strides,
}

impl Strides {
    /// Of `[B,T,heads,width]`.
    fn contiguous(seq_len: u32, heads: u32, width: u32) -> Self {
        // A product that overflows has more elements than `lens` accepts.
        let token = heads.saturating_mul(width);
        Self { offset: 0, batch: seq_len.saturating_mul(token), token, head: width }
    }

    /// Of `[B,heads,T,width]`.
    fn heads_first(seq_len: u32, heads: u32, width: u32) -> Self {
        let head = seq_len.saturating_mul(width);
        Self { offset: 0, batch: heads.saturating_mul(head), token: width, head }
    }

    /// The element behind the last row of `[B,T,heads]` rows of `width`.
    fn end(self, [batch, seq_len, heads]: [u32; 3], width: u32) -> u64 {
        let of = |count: u32, stride: u32| u64::from(count.saturating_sub(1)) * u64::from(stride);
        if batch == 0 || seq_len == 0 || heads == 0 {
            return 0;
        }
        let rows = of(batch, self.batch) + of(seq_len, self.token) + of(heads, self.head);
        u64::from(self.offset) + rows + u64::from(width)
    }

    /// True if no two rows have an element in common: each stride goes beyond all that the smaller
    /// ones reach.
    fn is_disjoint(self, [batch, seq_len, heads]: [u32; 3], width: u32) -> bool {
        let mut strides = [(self.batch, batch), (self.token, seq_len), (self.head, heads)];
        strides.sort_unstable();
        let mut reach = u64::from(width);
        strides.into_iter().filter(|(_, count)| *count > 1).all(|(stride, count)| {
            let is_beyond = u64::from(stride) >= reach;
            reach += u64::from(stride) * u64::from(count - 1);
            is_beyond
        })
    }

    /// True if the first token of a row of the batch follows the last of the row before.
    pub(crate) fn is_flat(self, batch: u32, seq_len: u32) -> bool {
        batch <= 1 || u64::from(self.batch) == u64::from(seq_len) * u64::from(self.token)
    }

    /// True if all rows begin at multiples of four elements.
    pub(crate) fn is_vec4(self) -> bool {
        [self.offset, self.batch, self.token, self.head].iter().all(|n| n.is_multiple_of(4))
    }
}

impl TensorStrides {
    /// Contiguous: q `[B,T,H,K]`, k `[B,T,G,K]`, v `[B,T,E,V]`, o `[B,T,max(H,E),V]`.
    #[must_use]
    pub fn contiguous(config: &Config, shape: &Shape) -> Self {
        Self::of(config, shape, Strides::contiguous)
    }

    /// Heads before tokens: q `[B,H,T,K]`, k `[B,G,T,K]`, v `[B,E,T,V]`, o `[B,max(H,E),T,V]`.
    #[must_use]
    pub fn heads_first(config: &Config, shape: &Shape) -> Self {
        Self::of(config, shape, Strides::heads_first)
    }

    /// q, k and v side by side in rows of one buffer, `[B,T,H K + G K + E V]`, which is bound as
    /// all three; o contiguous.
    #[must_use]
    pub fn fused(config: &Config, shape: &Shape) -> Self {
        let mut strides = Self::contiguous(config, shape);
        let (q, k, v) = (strides.q.token, strides.k.token, strides.v.token);
        let token = q.saturating_add(k).saturating_add(v);
        let batch = shape.seq_len.saturating_mul(token);
        let parts = [&mut strides.q, &mut strides.k, &mut strides.v];
        for (part, offset) in parts.into_iter().zip([0, q, q.saturating_add(k)]) {
            *part = Strides { offset, batch, token, ..*part };
        }
        strides
    }

    fn of(config: &Config, shape: &Shape, strides: fn(u32, u32, u32) -> Strides) -> Self {
        let of = |tensor: Tensor| {
            let (heads, width) = rows(config, shape, tensor);
            strides(shape.seq_len, heads, width)
        };
        Self { q: of(Tensor::Q), k: of(Tensor::K), v: of(Tensor::V), o: of(Tensor::O) }
    }

    pub(crate) fn all(self) -> [(Tensor, Strides); 4] {
        [(Tensor::Q, self.q), (Tensor::K, self.k), (Tensor::V, self.v), (Tensor::O, self.o)]
    }

    pub(crate) fn get(self, tensor: Tensor) -> Option<Strides> {
        self.all().into_iter().find(|(of, _)| *of == tensor).map(|(_, strides)| strides)
    }
}

/// The heads of a tensor and the elements of a row.
fn rows(config: &Config, shape: &Shape, tensor: Tensor) -> (u32, u32) {
    match tensor {
        Tensor::K => (shape.key_heads, config.key_dim),
        Tensor::V => (shape.value_heads, config.value_dim),
        Tensor::O => (shape.output_heads(), config.value_dim),
        _ => (shape.heads, config.key_dim),
    }
}

impl Shape {
    /// Elements up to the end of the last row of a tensor that has strides; `None` for any other.
    pub(crate) fn strided_len(&self, config: &Config, tensor: Tensor) -> Option<u64> {
        let strides = self.strides?.get(tensor)?;
        let (heads, width) = rows(config, self, tensor);
        Some(strides.end([self.batch, self.seq_len, heads], width))
    }

    /// Refuses rows of o that overlap.
    pub(crate) fn check_strides(&self, config: &Config) -> Result<(), PlanError> {
        let Some(strides) = self.strides else { return Ok(()) };
        let (heads, width) = rows(config, self, Tensor::O);
        let Strides { batch, token, head, .. } = strides.o;
        match strides.o.is_disjoint([self.batch, self.seq_len, heads], width) {
            true => Ok(()),
            false => Err(PlanError::OutputStrides { batch, token, head, value_dim: width }),
        }
    }

    /// Strides of a tensor, contiguous ones where it has none of its own.
    pub(crate) fn strides_of(&self, config: &Config, tensor: Tensor) -> Strides {
        let strides = self.strides.unwrap_or_else(|| TensorStrides::contiguous(config, self));
        strides.get(tensor).unwrap_or(strides.q)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_overlap() {
        let of = |batch, token, head| Strides { offset: 3, batch, token, head };
        let rows = [2, 5, 3];
        for strides in [of(60, 12, 4), of(60, 4, 20), of(4, 24, 8), of(100, 13, 4)] {
            assert!(strides.is_disjoint(rows, 4), "{strides:?}");
        }
        for strides in [of(60, 12, 3), of(59, 12, 4), of(60, 11, 4), of(0, 12, 4), of(60, 0, 4)] {
            assert!(!strides.is_disjoint(rows, 4), "{strides:?}");
        }
        // A stride that nothing is multiplied by may be anything.
        assert!(of(0, 12, 4).is_disjoint([1, 5, 3], 4));
        assert_eq!(of(60, 12, 4).end(rows, 4), 3 + 60 + 48 + 8 + 4);
        assert_eq!(of(60, 12, 4).end([2, 0, 3], 4), 0);
    }
}

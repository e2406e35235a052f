//! What is computed: sizes, and the elements of each tensor.

use crate::{Config, PlanError};

/// What is computed: the sizes that change from call to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Shape {
    /// B, sequences of equal length.
    pub batch: u32,
    /// T, tokens of a sequence.
    pub seq_len: u32,
    /// H, query heads.
    pub heads: u32,
    /// G, key/value heads; divides H. Query head h reads key/value head h / (H/G).
    pub kv_heads: u32,
}

impl Shape {
    /// A shape in which every query head has a key/value head of its own.
    #[must_use]
    pub fn new(batch: u32, seq_len: u32, heads: u32) -> Self {
        Self { batch, seq_len, heads, kv_heads: heads }
    }

    /// The same with G key/value heads, each read by H/G query heads.
    #[must_use]
    pub fn with_kv_heads(self, kv_heads: u32) -> Self {
        Self { kv_heads, ..self }
    }

    /// Elements of each tensor.
    ///
    /// # Errors
    ///
    /// A size that is zero, G not dividing H, a tensor of 2^32 elements or more.
    pub fn lens(&self, config: &Config) -> Result<Lens, PlanError> {
        for (what, size) in [
            ("batch", self.batch),
            ("seq_len", self.seq_len),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
        ] {
            if size == 0 {
                return Err(PlanError::Zero { what });
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(PlanError::Heads { heads: self.heads, kv_heads: self.kv_heads });
        }
        let (b, t, h, g) = (self.batch, self.seq_len, self.heads, self.kv_heads);
        let (k, v) = (config.key_dim, config.value_dim);
        Ok(Lens {
            q: elements("q", &[b, t, h, k])?,
            k: elements("k", &[b, t, g, k])?,
            v: elements("v", &[b, t, g, v])?,
            o: elements("o", &[b, t, h, v])?,
            mu: elements("mu", &[b, g, k, v])?,
            nu: elements("nu", &[b, g, k])?,
        })
    }
}

/// Elements of each tensor of a [`Shape`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lens {
    /// q `[B,T,H,K]`.
    pub q: u64,
    /// k `[B,T,G,K]`.
    pub k: u64,
    /// v `[B,T,G,V]`.
    pub v: u64,
    /// o `[B,T,H,V]`.
    pub o: u64,
    /// mu `[B,G,K,V]`.
    pub mu: u64,
    /// nu `[B,G,K]`.
    pub nu: u64,
}

/// The product of `sizes`, if 32 bits can index it.
fn elements(what: &'static str, sizes: &[u32]) -> Result<u64, PlanError> {
    let product = sizes.iter().try_fold(1u64, |product, size| product.checked_mul((*size).into()));
    match product {
        Some(n) if n <= u64::from(u32::MAX) => Ok(n),
        _ => Err(PlanError::TooManyElements { what, actual: product.unwrap_or(u64::MAX) }),
    }
}

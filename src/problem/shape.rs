//! What is computed: sizes, and the elements of each tensor.

use std::ops::Range;
use std::sync::Arc;

use crate::error::PlanError;
use crate::problem::config::Config;

/// What is computed: the sizes that change from call to call.
///
/// ```
/// use linear_attention::Shape;
///
/// // Two sequences of 1024 tokens, 32 query heads that share 8 key/value heads.
/// let equal = Shape::new(2, 1024, 32).with_kv_heads(8);
/// // Three sequences of different lengths along one axis T; one of them is empty.
/// let packed = Shape::packed(&[700, 0, 3], 32).with_kv_heads(8);
/// assert_eq!((packed.batch, packed.seq_len, packed.sequences()), (1, 703, 3));
/// // Up to 64 sequences of up to 4 tokens whose lengths and states a buffer will tell.
/// let decode = Shape::packed_at_most(64, 256, 4, 32).with_slots(1000);
/// assert_eq!(decode.sequences(), 64);
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Shape {
    /// B, sequences of equal length; 1 where sequences are packed.
    pub batch: u32,
    /// T, tokens of a sequence; of all sequences together where they are packed.
    pub seq_len: u32,
    /// H, query heads.
    pub heads: u32,
    /// G, key/value heads; divides H. Query head h reads key/value head h / (H/G).
    pub kv_heads: u32,
    /// How sequences lie along T.
    pub packing: Packing,
    /// Slots of the [`StatePool`](crate::serve::StatePool) in which the states of this call are
    /// read and updated, or `None` where states are `[N,..]`.
    pub slots: Option<u32>,
}

/// How sequences lie along T.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Packing {
    /// Each has T tokens and a row of its own in the batch.
    Equal,
    /// Side by side along T, with these numbers of tokens; their sum is T.
    Lengths(Arc<[u32]>),
    /// Side by side along T, with lengths that a buffer tells when the call runs.
    AtMost {
        /// N, the sequences that the buffer has entries for; those it does not need are empty.
        sequences: u32,
        /// Tokens of the longest.
        max_len: u32,
    },
}

impl Shape {
    /// A shape in which every query head has a key/value head of its own.
    #[must_use]
    pub fn new(batch: u32, seq_len: u32, heads: u32) -> Self {
        let packing = Packing::Equal;
        Self { batch, seq_len, heads, kv_heads: heads, packing, slots: None }
    }

    /// N sequences of these lengths, side by side along one axis T without padding, as
    /// `cu_seqlens` describes them: B = 1, q `[1,T,H,K]`. Empty sequences leave their state
    /// as it was.
    #[must_use]
    pub fn packed(lengths: &[u32], heads: u32) -> Self {
        // A sum beyond 32 bits is far beyond what `lens` accepts.
        let seq_len = lengths.iter().fold(0u32, |sum, len| sum.saturating_add(*len));
        Self { packing: Packing::Lengths(lengths.into()), ..Self::new(1, seq_len, heads) }
    }

    /// Up to `sequences` sequences of up to `max_len` tokens each and `tokens` together, side
    /// by side along T. Which they are is read when the call runs, from what
    /// [`Sequences`](crate::serve::Sequences) says, so one plan and one binding serve every step of an
    /// engine.
    #[must_use]
    pub fn packed_at_most(sequences: u32, tokens: u32, max_len: u32, heads: u32) -> Self {
        let packing = Packing::AtMost { sequences, max_len };
        Self { packing, ..Self::new(1, tokens, heads) }
    }

    /// The same with G key/value heads, each read by H/G query heads.
    #[must_use]
    pub fn with_kv_heads(self, kv_heads: u32) -> Self {
        Self { kv_heads, ..self }
    }

    /// The same with states in a pool of `slots` slots: each sequence's is read from its slot
    /// and updated there.
    #[must_use]
    pub fn with_slots(self, slots: u32) -> Self {
        Self { slots: Some(slots), ..self }
    }

    /// N, the sequences of a call.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        match &self.packing {
            Packing::Equal => self.batch,
            Packing::Lengths(lengths) => u32::try_from(lengths.len()).unwrap_or(u32::MAX),
            Packing::AtMost { sequences, .. } => *sequences,
        }
    }

    /// Tokens of the longest sequence.
    #[must_use]
    pub fn max_len(&self) -> u32 {
        match &self.packing {
            Packing::Equal => self.seq_len,
            Packing::Lengths(lengths) => lengths.iter().copied().max().unwrap_or(0),
            Packing::AtMost { max_len, .. } => (*max_len).min(self.seq_len),
        }
    }

    /// The rows of each sequence in q, k, v and o seen as `[B T,..]`, or `None` where a buffer
    /// tells them.
    #[must_use]
    pub fn token_ranges(&self) -> Option<Vec<Range<usize>>> {
        let from = |lengths: &mut dyn Iterator<Item = u32>| {
            let next = |end: &mut usize, len: u32| {
                let begin = *end;
                *end += len as usize;
                Some(begin..*end)
            };
            lengths.scan(0, next).collect()
        };
        match &self.packing {
            Packing::Equal => Some(from(&mut (0..self.batch).map(|_| self.seq_len))),
            Packing::Lengths(lengths) => Some(from(&mut lengths.iter().copied())),
            Packing::AtMost { .. } => None,
        }
    }

    /// Whether `cu_seqlens` says where sequences begin.
    pub(crate) fn is_packed(&self) -> bool {
        self.packing != Packing::Equal
    }

    /// Elements of each tensor.
    ///
    /// # Errors
    ///
    /// A size that is zero, G not dividing H, a tensor of 2^32 elements or more.
    pub fn lens(&self, config: &Config) -> Result<Lens, PlanError> {
        for (what, size) in [
            ("batch", self.batch),
            ("sequences", self.sequences()),
            ("seq_len", self.seq_len),
            ("max_len", self.max_len()),
            ("heads", self.heads),
            ("kv_heads", self.kv_heads),
            ("slots", self.slots.unwrap_or(1)),
        ] {
            if size == 0 {
                return Err(PlanError::Zero { what });
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(PlanError::Heads { heads: self.heads, kv_heads: self.kv_heads });
        }
        if self.is_packed() && self.batch != 1 {
            return Err(PlanError::PackedBatch { actual: self.batch });
        }
        if let Packing::Lengths(lengths) = &self.packing {
            let sum: u64 = lengths.iter().map(|len| u64::from(*len)).sum();
            if sum > u64::from(u32::MAX) {
                return Err(PlanError::TooManyElements { what: "q", actual: sum });
            }
            if sum != u64::from(self.seq_len) {
                return Err(PlanError::Lengths { required: self.seq_len, actual: sum });
            }
        }
        let (b, t, h, g) = (self.batch, self.seq_len, self.heads, self.kv_heads);
        let (k, v, n) = (config.key_dim, config.value_dim, self.sequences());
        let f = config.features();
        Ok(Lens {
            q: elements("q", &[b, t, h, k])?,
            k: elements("k", &[b, t, g, k])?,
            v: elements("v", &[b, t, g, v])?,
            o: elements("o", &[b, t, h, v])?,
            mu: elements("mu", &[n, g, f, v])?,
            nu: elements("nu", &[n, g, f])?,
            state: elements("state", &[n, state_len(config, g)?])?,
        })
    }
}

/// Elements of the state of one sequence: mu `[G,F,V]`, then nu `[G,F]`.
pub(crate) fn state_len(config: &Config, kv_heads: u32) -> Result<u32, PlanError> {
    let len =
        elements("state", &[kv_heads, config.features(), config.value_dim.saturating_add(1)])?;
    // `elements` refuses what 32 bits cannot index.
    Ok(len as u32)
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
    /// mu `[N,G,F,V]`.
    pub mu: u64,
    /// nu `[N,G,F]`.
    pub nu: u64,
    /// Both as buffers hold them: for each sequence mu `[G,F,V]`, then nu `[G,F]`.
    pub state: u64,
}

/// The product of `sizes`, if 32 bits can index it.
pub(crate) fn elements(what: &'static str, sizes: &[u32]) -> Result<u64, PlanError> {
    let product = sizes.iter().try_fold(1u64, |product, size| product.checked_mul((*size).into()));
    match product {
        Some(n) if n <= u64::from(u32::MAX) => Ok(n),
        _ => Err(PlanError::TooManyElements { what, actual: product.unwrap_or(u64::MAX) }),
    }
}

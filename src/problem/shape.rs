//! The sizes of a call.

mod lens;

pub use lens::Lens;

use std::ops::Range;
use std::sync::Arc;

use crate::problem::strides::TensorStrides;

/// The sizes that change from call to call.
///
/// ```
/// use linear_attention::Shape;
/// use linear_attention::shape::PackedLimits;
///
/// // Two sequences of 1024 tokens, 32 query heads that share 8 key/value heads.
/// let equal = Shape::new(2, 1024, 32).with_kv_heads(8);
/// // 16 query and key heads, 32 value heads, as Qwen3-Next has them: o has 32 heads.
/// let grouped_values = Shape::new(1, 1024, 16).with_value_heads(32);
/// assert_eq!(grouped_values.output_heads(), 32);
/// // Three sequences of different lengths along one axis T; one of them is empty.
/// let packed = Shape::packed(&[700, 0, 3], 32).with_kv_heads(8);
/// assert_eq!((packed.batch, packed.seq_len, packed.sequences()), (1, 703, 3));
/// // Up to 64 sequences of up to 4 tokens, whose lengths and slots come from a buffer.
/// let limits = PackedLimits { sequences: 64, tokens: 256, max_len: 4 };
/// let decode = Shape::packed_up_to(limits, 32).with_slots(1000);
/// assert_eq!(decode.sequences(), 64);
/// // Two rows of 10 tokens, the first padded on its left to 7 tokens, the second on its right to 4.
/// let padded = Shape::padded(&[3..10, 0..4], 10, 32);
/// assert_eq!((padded.batch, padded.seq_len, padded.max_len()), (2, 10, 7));
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
    /// G, key heads; divides E. Value head e reads key head e / (E/G).
    pub key_heads: u32,
    /// E, value heads, each with a state of its own; divides H or is a multiple of it. Query head h
    /// reads value head h / (H/E), or value head e is read by query head e / (E/H).
    pub value_heads: u32,
    /// The layout of sequences along T.
    pub packing: Packing,
    /// Slots of the [`StatePool`](crate::serve::StatePool) that has the states of this call, or
    /// `None` where states are `[N,..]`.
    pub slots: Option<u32>,
    /// True where the state of each sequence is read from a slot of its own, which may differ from
    /// the slot that it is written to.
    pub has_sources: bool,
    /// C, the most states of a sequence that are stored in slots on the way, each after a number of
    /// tokens that the call gives.
    pub checkpoints: u32,
    /// The strides of q, k, v and o; `None` if all are contiguous.
    pub strides: Option<TensorStrides>,
}

/// The layout of sequences along T.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Packing {
    /// Each has T tokens and a row of its own in the batch.
    Equal,
    /// Contiguous along T, with these numbers of tokens; their sum is at most T.
    Lengths(Arc<[u32]>),
    /// Contiguous along T, with lengths that the call reads from a buffer when it runs.
    UpTo {
        /// N, the sequences that the buffer has entries for; unused ones are empty.
        sequences: u32,
        /// Tokens of the longest.
        max_len: u32,
    },
    /// Each has a row of T tokens of its own in the batch, of which those in its range are valid.
    /// The others are padding, whatever they hold: they change no state and no sum, and their rows
    /// of o are zero.
    Padded(Arc<[Range<u32>]>),
}

/// The most that a call of [`Shape::packed_up_to`] has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a literal names each limit, and there are no more")]
pub struct PackedLimits {
    /// N, sequences.
    pub sequences: u32,
    /// T, tokens of all sequences together.
    pub tokens: u32,
    /// Tokens of one sequence.
    pub max_len: u32,
}

impl Shape {
    /// A shape in which every query head has a key and a value head of its own.
    #[must_use]
    pub fn new(batch: u32, seq_len: u32, heads: u32) -> Self {
        let packing = Packing::Equal;
        Self {
            batch,
            seq_len,
            heads,
            key_heads: heads,
            value_heads: heads,
            packing,
            slots: None,
            has_sources: false,
            checkpoints: 0,
            strides: None,
        }
    }

    /// N sequences of these lengths, contiguous along one axis T, as
    /// `cu_seqlens` describes them: B = 1, q `[1,T,H,K]`. Empty sequences leave their state
    /// as it was.
    #[must_use]
    pub fn packed(lengths: &[u32], heads: u32) -> Self {
        // A sum beyond 32 bits is far beyond what `lens` accepts.
        let seq_len = lengths.iter().fold(0u32, |sum, len| sum.saturating_add(*len));
        Self { packing: Packing::Lengths(lengths.into()), ..Self::new(1, seq_len, heads) }
    }

    /// Sequences within `limits`, contiguous along T. The call reads their lengths when it runs,
    /// from [`Sequences`](crate::serve::Sequences), so that one plan and one binding serve every
    /// step of an engine.
    #[must_use]
    pub fn packed_up_to(limits: PackedLimits, heads: u32) -> Self {
        let PackedLimits { sequences, tokens, max_len } = limits;
        let packing = Packing::UpTo { sequences, max_len };
        Self { packing, ..Self::new(1, tokens, heads) }
    }

    /// A sequence for each of these ranges, in a row of `seq_len` tokens: those in the range are
    /// valid, the others are padding, on either side or both. B is the number of ranges. An empty
    /// range leaves its state as it was.
    #[must_use]
    pub fn padded(valid: &[Range<u32>], seq_len: u32, heads: u32) -> Self {
        let batch = u32::try_from(valid.len()).unwrap_or(u32::MAX);
        Self { packing: Packing::Padded(valid.into()), ..Self::new(batch, seq_len, heads) }
    }

    /// The same with `kv_heads` key heads and as many value heads: G = E, each read by H/E query
    /// heads.
    #[must_use]
    pub fn with_kv_heads(self, kv_heads: u32) -> Self {
        Self { key_heads: kv_heads, value_heads: kv_heads, ..self }
    }

    /// The same with G key heads, each read by E/G value heads.
    #[must_use]
    pub fn with_key_heads(self, key_heads: u32) -> Self {
        Self { key_heads, ..self }
    }

    /// The same with E value heads.
    #[must_use]
    pub fn with_value_heads(self, value_heads: u32) -> Self {
        Self { value_heads, ..self }
    }

    /// The same with states in a pool of `slots` slots: the state of each sequence is read from its
    /// slot and updated there.
    #[must_use]
    pub fn with_slots(self, slots: u32) -> Self {
        Self { slots: Some(slots), ..self }
    }

    /// The same with two slots for each sequence: its state is read from one and written to the
    /// other. A prompt that continues a shared prefix, for example, leaves the prefix as it was.
    #[must_use]
    pub fn with_sources(self) -> Self {
        Self { has_sources: true, ..self }
    }

    /// The same with up to `checkpoints` states of each sequence stored in slots on the way: those
    /// after the last tokens of a speculative decode, for a rollback without a replay, or those at
    /// some tokens of a prompt, for a cache of prefixes. See
    /// [`Batch::write_with_checkpoints`](crate::serve::Batch::write_with_checkpoints).
    #[must_use]
    pub fn with_checkpoints(self, checkpoints: u32) -> Self {
        Self { checkpoints, ..self }
    }

    /// The same with rows of q, k, v and o that are not contiguous.
    #[must_use]
    pub fn with_strides(self, strides: TensorStrides) -> Self {
        Self { strides: Some(strides), ..self }
    }

    /// max(H,E), the heads of o.
    #[must_use]
    pub fn output_heads(&self) -> u32 {
        self.heads.max(self.value_heads)
    }

    /// Output heads that read one value head: max(H,E)/E.
    pub(crate) fn value_group(&self) -> u32 {
        self.output_heads() / self.value_heads.max(1)
    }

    /// Output heads that one query head has: max(H,E)/H.
    pub(crate) fn query_group(&self) -> u32 {
        self.output_heads() / self.heads.max(1)
    }

    /// Value heads that read one key head: E/G.
    pub(crate) fn key_group(&self) -> u32 {
        self.value_heads / self.key_heads.max(1)
    }

    /// N, the sequences of a call.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        match &self.packing {
            Packing::Equal | Packing::Padded(_) => self.batch,
            Packing::Lengths(lengths) => u32::try_from(lengths.len()).unwrap_or(u32::MAX),
            Packing::UpTo { sequences, .. } => *sequences,
        }
    }

    /// Tokens of the longest sequence.
    #[must_use]
    pub fn max_len(&self) -> u32 {
        match &self.packing {
            Packing::Equal => self.seq_len,
            Packing::Lengths(lengths) => lengths.iter().copied().max().unwrap_or(0),
            Packing::UpTo { max_len, .. } => (*max_len).min(self.seq_len),
            Packing::Padded(valid) => valid.iter().map(range_len).max().unwrap_or(0),
        }
    }

    /// The entries of sequences in the shaders: one for each sequence and, where rows are padded,
    /// one before it for the padding since the last sequence.
    pub(crate) fn entries(&self) -> u32 {
        match self.is_padded() {
            true => self.batch.saturating_mul(2),
            false => self.sequences(),
        }
    }

    /// The entry of sequence n.
    pub(crate) fn entry(&self, n: usize) -> usize {
        if self.is_padded() { 2 * n + 1 } else { n }
    }

    /// The rows of each sequence in q, k, v and o seen as `[B T,..]`, or `None` where only a
    /// buffer has them.
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
            Packing::UpTo { .. } => None,
            Packing::Padded(valid) => (0..valid.len()).map(|n| self.valid_tokens(n)).collect(),
        }
    }

    /// The valid tokens of row n of a padded shape, counted through all rows.
    pub(crate) fn valid_tokens(&self, n: usize) -> Option<Range<usize>> {
        let Packing::Padded(valid) = &self.packing else { return None };
        let (range, begin) = (valid.get(n)?, n * self.seq_len as usize);
        Some(begin + range.start as usize..begin + range.end as usize)
    }

    /// Some rows of the batch and some tokens of each, where the call does not pack them.
    pub(crate) fn part(&self, batch: Range<u32>, tokens: Range<u32>) -> Self {
        let mut part = self.clone();
        (part.batch, part.seq_len) = (batch.len() as u32, tokens.len() as u32);
        if let Packing::Padded(valid) = &self.packing {
            let clip = |end: u32| end.clamp(tokens.start, tokens.end) - tokens.start;
            let rows = valid.get(batch.start as usize..batch.end as usize).unwrap_or_default();
            let clipped = rows.iter().map(|range| clip(range.start)..clip(range.end));
            part.packing = Packing::Padded(clipped.collect());
        }
        part
    }

    /// True if sequences begin where `cu_seqlens` says.
    pub(crate) fn has_lengths(&self) -> bool {
        self.packing != Packing::Equal
    }

    /// True if sequences lie one behind the other along one axis T.
    pub(crate) fn is_packed(&self) -> bool {
        matches!(self.packing, Packing::Lengths(_) | Packing::UpTo { .. })
    }

    /// True if tokens of a row may be padding.
    pub(crate) fn is_padded(&self) -> bool {
        matches!(self.packing, Packing::Padded(_))
    }

    /// True if only a call knows the lengths.
    #[cfg(feature = "cpu")]
    pub(crate) fn is_packed_up_to(&self) -> bool {
        matches!(self.packing, Packing::UpTo { .. })
    }

    /// Decodes [`Tensors::key_status`](crate::Tensors::key_status), which was 0 before a call: the
    /// first token, counted through all sequences, and the key head, whose key has a feature that
    /// is infinite or NaN in f32; `None` where there is none.
    ///
    /// ```
    /// use linear_attention::Shape;
    ///
    /// let shape = Shape::new(1, 100, 8).with_kv_heads(2);
    /// assert_eq!(shape.faulty_key(0), None);
    /// assert_eq!(shape.faulty_key(!(2 * 37 + 1)), Some((37, 1)));
    /// ```
    #[must_use]
    pub fn faulty_key(&self, status: u32) -> Option<(u32, u32)> {
        let row = !status;
        (status != 0).then(|| (row / self.key_heads.max(1), row % self.key_heads.max(1)))
    }
}

fn range_len(range: &Range<u32>) -> u32 {
    range.end.saturating_sub(range.start)
}

//! Problems that are too large to bind, or too long for a submission, in parts.

use std::ops::Range;

use crate::error::PlanError;
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Config;
use crate::problem::shape::{Packing, Shape};
use crate::problem::tensor::{Tensor, state_len};

/// A problem in parts, each with bindings that the device accepts: some of the sequences or, where
/// one alone is too large, some of its tokens, continued from the final state of the part before. A
/// sequence of equal length is also cut along its tokens where one work item would iterate over so
/// many that [`Tuning::max_operations`] could not bound a submission, as over a long prompt of a
/// delta rule.
///
/// [`LinearAttention::split`](crate::LinearAttention::split) makes one, and
/// [`LinearAttention::bind_split`](crate::LinearAttention::bind_split) binds tensors to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    shape: Shape,
    parts: Vec<Part>,
}

/// A part of a [`Split`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Part {
    /// Its sequences, of the batch or of those that are packed.
    pub sequences: Range<u32>,
    /// Its tokens of each; where there are several of different lengths, all of theirs.
    pub tokens: Range<u32>,
    /// The plan of the part.
    pub plan: Plan,
    /// Tokens before it, of all sequences.
    pub(crate) first_row: u64,
    /// Elements before it in q, k, v and o, where they have strides.
    pub(crate) begins: [u64; 4],
}

impl Part {
    /// Elements before it in a tensor whose tokens have `row_len` elements each, or which has
    /// strides.
    pub(crate) fn begin_of(&self, tensor: Tensor, row_len: u64) -> u64 {
        let [q, k, v, o] = self.begins;
        match (tensor, self.plan.shape().strides) {
            (Tensor::Q, Some(_)) => q,
            (Tensor::K, Some(_)) => k,
            (Tensor::V, Some(_)) => v,
            (Tensor::O, Some(_)) => o,
            _ => self.first_row.saturating_mul(row_len),
        }
    }

    /// True if its initial state is the final state of the part before it.
    #[must_use]
    pub fn continues(&self) -> bool {
        self.tokens.start > 0
    }
}

impl Split {
    pub(crate) fn new(
        config: &Config,
        shape: &Shape,
        limits: &wgpu::Limits,
        tuning: &Tuning,
    ) -> Result<Self, PlanError> {
        let cutter = Cutter { config, shape, limits, tuning };
        let parts = match Plan::new(config, shape, limits, tuning) {
            Ok(plan) => {
                let is_one = shape.batch == 1 && !shape.is_packed() && shape.slots.is_none();
                let parts = match is_one && !plan.has_short_chains() {
                    true => {
                        cutter.sequence(0, 0, shape.seq_len, &Step::new(config, shape, limits)?)
                    }
                    false => None,
                };
                let whole = || Part {
                    sequences: 0..shape.sequences(),
                    tokens: 0..shape.seq_len,
                    plan,
                    first_row: 0,
                    begins: [0; 4],
                };
                parts.unwrap_or_else(|| vec![whole()])
            }
            Err(refused) => {
                let is_too_large = matches!(
                    refused,
                    PlanError::TooLarge { .. }
                        | PlanError::SeqLen { .. }
                        | PlanError::TooManyElements { .. }
                        | PlanError::TooManyWorkgroups { .. }
                );
                // A pool is one binding, and lengths that only a call knows cannot be cut.
                if !is_too_large || shape.slots.is_some() {
                    return Err(refused);
                }
                let step = Step::new(config, shape, limits)?;
                let parts = match &shape.packing {
                    Packing::Equal | Packing::Padded(_) => cutter.batch(&step),
                    Packing::Lengths(lengths) => cutter.packed(lengths, &step),
                    Packing::UpTo { .. } => None,
                };
                parts.ok_or(refused)?
            }
        };
        Ok(Self { shape: shape.clone(), parts })
    }

    /// The whole shape.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The parts, in the order in which they are computed.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Bytes of scratch that `bind_split` needs, for the part that needs most: they are computed
    /// one after the other.
    #[must_use]
    pub fn scratch_size(&self) -> wgpu::BufferAddress {
        self.parts.iter().map(|part| part.plan.scratch_size()).max().unwrap_or(0)
    }

    /// True if a sequence has several parts, so that its state goes from part to part.
    #[must_use]
    pub fn carries_state(&self) -> bool {
        self.parts.iter().any(Part::continues)
    }
}

/// The call that parts are cut from.
struct Cutter<'a> {
    config: &'a Config,
    shape: &'a Shape,
    limits: &'a wgpu::Limits,
    tuning: &'a Tuning,
}

impl Cutter<'_> {
    fn plan(&self, shape: &Shape) -> Result<Plan, PlanError> {
        Plan::new(self.config, shape, self.limits, self.tuning)
    }

    /// Some sequences of the batch, and some tokens of each.
    fn equal(&self, sequences: Range<u32>, tokens: Range<u32>) -> Shape {
        let mut part = self.shape.part(sequences, tokens);
        if self.shape.is_packed() {
            part.packing = Packing::Equal;
        }
        part
    }

    /// The elements before the bindings of a part's tensors that have strides, which begin where
    /// the device can bind them; what is left goes into the offsets of the part's own.
    fn place(&self, part: &mut Shape, n: u32, first_token: u32) -> Option<[u64; 4]> {
        let mut begins = [0; 4];
        let Some(strides) = &mut part.strides else { return Some(begins) };
        let align = u64::from(self.limits.min_storage_buffer_offset_alignment).max(4);
        let of_each = [&mut strides.q, &mut strides.k, &mut strides.v, &mut strides.o];
        for (begin, of) in begins.iter_mut().zip(of_each) {
            let of_rows = u64::from(n) * u64::from(of.batch);
            let first =
                u64::from(of.offset) + of_rows + u64::from(first_token) * u64::from(of.token);
            *begin = first - first % (align / self.config.dtype.size()).max(1);
            of.offset = u32::try_from(first - *begin).ok()?;
        }
        Some(begins)
    }

    /// As many whole sequences of the batch as fit, or else as many tokens of one.
    fn batch(&self, step: &Step) -> Option<Vec<Part>> {
        let Shape { batch, seq_len, .. } = *self.shape;
        let fits = |n| self.plan(&self.equal(0..n, 0..seq_len)).is_ok();
        if let Some(size) = largest(batch, step.batch, &fits) {
            let begins = (0..batch).step_by(size as usize);
            let part = |begin: u32| {
                let sequences = begin..batch.min(begin.saturating_add(size));
                let mut shape = self.equal(sequences.clone(), 0..seq_len);
                let begins = self.place(&mut shape, begin, 0)?;
                let first_row = u64::from(begin) * u64::from(seq_len);
                let plan = self.plan(&shape).ok()?;
                Some(Part { sequences, tokens: 0..seq_len, plan, first_row, begins })
            };
            return begins.map(part).collect();
        }
        // A sequence and its state must begin where they can be bound.
        let is_aligned = seq_len.is_multiple_of(step.tokens) && step.states == 1;
        if batch > 1 && !is_aligned {
            return None;
        }
        let of_each = |n: u32| self.sequence(n, u64::from(n) * u64::from(seq_len), seq_len, step);
        (0..batch).map(of_each).collect::<Option<Vec<_>>>().map(|parts| parts.concat())
    }

    /// One sequence, in parts of as many tokens as fit.
    fn sequence(&self, n: u32, row: u64, seq_len: u32, step: &Step) -> Option<Vec<Part>> {
        // Of packed sequences the axis is one row of the batch.
        let (in_batch, before) = match self.shape.is_packed() {
            true => (0, u32::try_from(row).ok()?),
            false => (n, 0),
        };
        let first = |n| self.plan(&self.equal(in_batch..in_batch + 1, 0..n));
        let fits = |n| first(n).is_ok();
        let is_short = |n| first(n).is_ok_and(|plan| plan.has_short_chains());
        let least = || Some(step.tokens).filter(|tokens| fits(*tokens));
        let size = largest(seq_len, step.tokens, &is_short).or_else(least)?;
        let part = |begin: u32| {
            let tokens = begin..seq_len.min(begin.saturating_add(size));
            let mut shape = self.equal(in_batch..in_batch + 1, tokens.clone());
            let begins = self.place(&mut shape, in_batch, before + begin)?;
            let mut plan = self.plan(&shape).ok()?;
            if !plan.updates_in_place() {
                // With more segments the state has been read before it is written.
                let mut tuning = *self.tuning;
                tuning.max_segment_len = shape.seq_len.div_ceil(2);
                tuning.max_delta_segment_len = tuning.max_segment_len;
                plan = Plan::new(self.config, &shape, self.limits, &tuning).ok()?;
            }
            let first_row = row + u64::from(begin);
            Some(Part { sequences: n..n + 1, tokens, plan, first_row, begins })
        };
        (0..seq_len).step_by(size as usize).map(part).collect()
    }

    /// As many whole sequences as fit and end where the next can begin, or else tokens of one.
    fn packed(&self, lengths: &[u32], step: &Step) -> Option<Vec<Part>> {
        let total = u32::try_from(lengths.len()).ok()?;
        let mut rows = vec![0u64];
        rows.extend(lengths.iter().scan(0, |end, len| {
            *end += u64::from(*len);
            Some(*end)
        }));
        let shape_of = |range: Range<u32>| {
            let lengths = &lengths[range.start as usize..range.end as usize];
            let seq_len = lengths.iter().sum();
            Shape { seq_len, packing: Packing::Lengths(lengths.into()), ..self.shape.clone() }
        };
        let can_begin = |n: u32| {
            let is_aligned = rows[n as usize].is_multiple_of(step.tokens.into());
            n == total || (is_aligned && n.is_multiple_of(step.states))
        };
        let mut parts = Vec::new();
        let mut n = 0;
        while n < total {
            // Twice as many until they do not fit: the plan of many takes long.
            let fits = |count| self.plan(&shape_of(n..n + count)).is_ok();
            let mut most = 1;
            while most < total - n && fits(most) {
                most = (2 * most).min(total - n);
            }
            let count = largest(most, 1, &fits).unwrap_or(0);
            let row = rows[n as usize];
            if let Some(count) = (1..=count).rev().find(|count| can_begin(n + count)) {
                let mut shape = shape_of(n..n + count);
                let (sequences, tokens) = (n..n + count, 0..shape.seq_len);
                let begins = self.place(&mut shape, 0, u32::try_from(row).ok()?)?;
                let plan = self.plan(&shape).ok()?;
                parts.push(Part { sequences, tokens, plan, first_row: row, begins });
                n += count;
            } else if can_begin(n + 1) {
                parts.extend(self.sequence(n, row, lengths[n as usize], step)?);
                n += 1;
            } else {
                return None;
            }
        }
        Some(parts)
    }
}

/// The multiples of sequences and of tokens at which every binding is aligned.
struct Step {
    batch: u32,
    tokens: u32,
    /// Of sequences, for their states alone.
    states: u32,
}

impl Step {
    fn new(config: &Config, shape: &Shape, limits: &wgpu::Limits) -> Result<Self, PlanError> {
        let align = u64::from(limits.min_storage_buffer_offset_alignment).max(4);
        let row_len = |tensor: Tensor| tensor.row_len(config, shape);
        let mut rows = Vec::new();
        // Rows that are apart begin anywhere.
        let is_strided =
            |tensor| shape.strides.is_some_and(|strides| strides.get(tensor).is_some());
        for tensor in Tensor::PER_TOKEN.into_iter().filter(|tensor| !is_strided(*tensor)) {
            // A tensor that the call does not have is aligned anywhere.
            let len =
                if tensor.len(config, shape).is_ok_and(|n| n == 0) { 0 } else { row_len(tensor)? };
            rows.push(len * tensor.dtype(config).size());
        }
        let rows = rows.into_iter();
        // The alignment is a power of two, so the largest of these is a multiple of the others.
        let steps = |bytes: u64| align / (1u64 << bytes.trailing_zeros().min(63)).min(align);
        let tokens = rows.clone().map(steps).max().unwrap_or(1);
        let t = u64::from(shape.seq_len);
        let sequences = rows.map(|bytes| steps(bytes.saturating_mul(t)));
        let state_len = state_len(config, shape.value_heads)?;
        let states = steps(u64::from(state_len) * F32_SIZE);
        let batch = sequences.max().unwrap_or(1).max(states);
        Ok(Self { batch: batch as u32, tokens: tokens as u32, states: states as u32 })
    }
}

/// The largest multiple of `step` up to `max` that fits, by bisection: every smaller one fits, too.
fn largest(max: u32, step: u32, fits: &dyn Fn(u32) -> bool) -> Option<u32> {
    let (mut low, mut high) = (0, max / step + 1);
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle * step) { low = middle } else { high = middle }
    }
    (low > 0).then_some(low * step)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::problem::shape::PackedLimits;
    use crate::problem::update_rule::{Beta, UpdateRule};

    fn split(shape: &Shape) -> Result<Split, PlanError> {
        let (config, limits) = (Config::new(64, 64), wgpu::Limits::default());
        let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::Other)?;
        Split::new(&config, shape, &limits, &tuning)
    }

    /// Tensors of 2^42 elements, which 32 bits are far from indexing: every token is in one part,
    /// every part is within the default limits, and where it begins is counted in 64 bits.
    #[test]
    fn beyond_32_bits() {
        for shape in [Shape::new(1 << 18, 1 << 14, 16), Shape::new(1 << 10, 1 << 22, 16)] {
            let split = split(&shape).unwrap();
            let mut row = 0;
            for part in split.parts() {
                assert_eq!(part.first_row, row);
                let tokens =
                    u64::from(part.plan.shape().batch) * u64::from(part.plan.shape().seq_len);
                assert!(part.plan.lens().q * 4 <= 128 << 20 && tokens > 0);
                assert!((row * 16 * 64 * 4).is_multiple_of(256));
                row += tokens;
            }
            assert_eq!(row, 1 << 32);
            assert_eq!(split.carries_state(), shape.seq_len > 1 << 14);
        }
    }

    /// Packed sequences are cut between sequences, and a long one along its tokens.
    #[test]
    fn packed_sequences() {
        let lengths = [100_000, 7, 0, 1 << 20, 3, 400_000, 1];
        let shape = Shape::packed(&lengths, 1);
        let split = split(&shape).unwrap();
        let mut row = 0;
        let mut sequences = 0;
        for part in split.parts() {
            assert_eq!(part.first_row, row);
            if !part.continues() {
                assert_eq!(part.sequences.start, sequences);
                sequences = part.sequences.end;
            }
            assert!(part.plan.lens().q * 4 <= 128 << 20);
            row += u64::from(part.plan.shape().seq_len);
        }
        assert_eq!((row, sequences), (u64::from(shape.seq_len), 7));
        assert!(split.carries_state());
    }

    /// A work item iterates over its whole sequence where a delta rule's heads fill the device: a
    /// long one is cut, even where it could be bound.
    #[test]
    fn chains_are_cut() {
        let (config, limits) = (
            Config::of_rule(128, 128, UpdateRule::Delta(Beta::per_head())),
            wgpu::Limits { max_storage_buffer_binding_size: 1 << 34, ..wgpu::Limits::default() },
        );
        let limits = wgpu::Limits { max_buffer_size: 1 << 36, ..limits };
        let tuning = Tuning::new(&config, &limits, wgpu::DeviceType::DiscreteGpu).unwrap();
        let parts = |tokens: u32| {
            let split = Split::new(&config, &Shape::new(1, tokens, 64), &limits, &tuning).unwrap();
            split.parts().iter().for_each(|part| assert!(part.plan.has_short_chains()));
            split.parts().len()
        };
        assert_eq!(parts(4096), 1);
        assert!((2..20).contains(&parts(1 << 18)), "{}", parts(1 << 18));
    }

    #[test]
    fn what_parts_do_not_help() {
        let too_large = |shape: Shape| matches!(split(&shape), Err(PlanError::TooLarge { .. }));
        // Lengths that only a call knows.
        let limits = PackedLimits { sequences: 2, tokens: 1 << 21, max_len: 1 << 20 };
        assert!(too_large(Shape::packed_up_to(limits, 16)));
        // One token, whose heads have states larger than a binding.
        assert!(too_large(Shape::new(1, 1, 1 << 19)));
    }
}

//! Problems larger than the device binds, in parts that it does.

use std::ops::Range;

use crate::error::PlanError;
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Config;
use crate::problem::shape::Shape;
use crate::problem::tensor::{Tensor, state_len};

/// A problem in parts, each with bindings that the device accepts: some of the batch or, where one
/// sequence alone is too large, some of its tokens, continued from the final state of the part
/// before.
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
    /// Its sequences of the batch.
    pub batch: Range<u32>,
    /// Its tokens of each.
    pub tokens: Range<u32>,
    /// The plan of the part.
    pub plan: Plan,
}

impl Part {
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
        let refused = match Plan::new(config, shape, limits, tuning) {
            Ok(plan) => {
                let (batch, tokens) = (0..shape.batch, 0..shape.seq_len);
                return Ok(Self {
                    shape: shape.clone(),
                    parts: vec![Part { batch, tokens, plan }],
                });
            }
            Err(error) => error,
        };
        let is_too_large = matches!(
            refused,
            PlanError::TooLarge { .. }
                | PlanError::SeqLen { .. }
                | PlanError::TooManyElements { .. }
                | PlanError::TooManyWorkgroups { .. }
        );
        // Packed sequences share one axis, a pool is one binding, and rows that are apart begin anywhere.
        let is_whole = shape.is_packed() || shape.slots.is_some() || shape.strides.is_some();
        if !is_too_large || is_whole {
            return Err(refused);
        }
        let step = Step::new(config, shape, limits)?;
        let planned = |batch: u32, tokens: u32| {
            let part = shape.part(0..batch, 0..tokens);
            Plan::new(config, &part, limits, tuning)
        };
        let mut parts = Vec::new();
        // As many whole sequences as fit, or else as many tokens of one.
        if let Some(size) = largest(shape.batch, step.batch, &|n| planned(n, shape.seq_len).is_ok())
        {
            for begin in (0..shape.batch).step_by(size as usize) {
                let batch = begin..shape.batch.min(begin.saturating_add(size));
                let part = shape.part(batch.clone(), 0..shape.seq_len);
                let plan = Plan::new(config, &part, limits, tuning)?;
                parts.push(Part { batch, tokens: 0..shape.seq_len, plan });
            }
            return Ok(Self { shape: shape.clone(), parts });
        }
        let Some(size) = largest(shape.seq_len, step.tokens, &|n| planned(1, n).is_ok()) else {
            return Err(refused);
        };
        // A sequence and its state must begin where they can be bound.
        let is_aligned = shape.seq_len.is_multiple_of(step.tokens) && step.states_are_aligned;
        if shape.batch > 1 && !is_aligned {
            return Err(refused);
        }
        for n in 0..shape.batch {
            for begin in (0..shape.seq_len).step_by(size as usize) {
                let tokens = begin..shape.seq_len.min(begin.saturating_add(size));
                let part = shape.part(n..n + 1, tokens.clone());
                let mut plan = Plan::new(config, &part, limits, tuning)?;
                if !plan.updates_in_place() {
                    // With more segments the state has been read before it is written.
                    let mut tuning = *tuning;
                    tuning.max_segment_len = part.seq_len.div_ceil(2);
                    plan = Plan::new(config, &part, limits, &tuning)?;
                }
                parts.push(Part { batch: n..n + 1, tokens, plan });
            }
        }
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

    /// Tokens before a part, of all sequences.
    pub(crate) fn first_row(&self, part: &Part) -> u64 {
        u64::from(part.batch.start) * u64::from(self.shape.seq_len) + u64::from(part.tokens.start)
    }
}

/// The multiples of sequences and of tokens at which every binding is aligned.
struct Step {
    batch: u32,
    tokens: u32,
    /// True if the state of every sequence is aligned.
    states_are_aligned: bool,
}

impl Step {
    fn new(config: &Config, shape: &Shape, limits: &wgpu::Limits) -> Result<Self, PlanError> {
        let align = u64::from(limits.min_storage_buffer_offset_alignment).max(4);
        let row_len = |tensor: Tensor| tensor.row_len(config, shape);
        let mut rows = Vec::new();
        for tensor in Tensor::PER_TOKEN {
            // A tensor that the call has not is aligned anywhere.
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
        let (batch, tokens) = (batch as u32, tokens as u32);
        Ok(Self { batch, tokens, states_are_aligned: states == 1 })
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
                assert_eq!(split.first_row(part), row);
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

    #[test]
    fn what_parts_do_not_help() {
        let too_large = |shape: Shape| matches!(split(&shape), Err(PlanError::TooLarge { .. }));
        assert!(too_large(Shape::packed(&[1 << 20, 1 << 20], 16)));
        // One token, whose heads have states larger than a binding.
        assert!(too_large(Shape::new(1, 1, 1 << 19)));
    }
}

//! The ranges of scratch of a backward pass.

use std::ops::Range;

use crate::error::PlanError;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;

/// The ranges of scratch, in bytes; empty where the plan has no such tensor.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Scratch {
    /// k' `[T,E,F]`, and in the recurrence then the gradients by it; rows of whole vec4s. Where
    /// there are several value blocks, what each adds to them follows, and likewise behind queries
    /// and gates.
    pub(crate) keys: Range<u64>,
    /// q' `[T,max(H,E),F]` likewise, with the gains, and then the gradients by it.
    pub(crate) queries: Range<u64>,
    /// The projections of keys and queries of the same heads, of maps with weights, and then the
    /// gradients by them; each row as wide as the wider of both, with a vec4 of norms.
    pub(crate) projections: Range<u64>,
    /// The gradients by weights of each piece of the tokens and each head of the same.
    pub(crate) partials: Range<u64>,
    /// Decays and betas of all tokens, and then the gradients by them.
    pub(crate) gates: Range<u64>,
    /// Initial states, gradients by states, and in the recurrence the memory of work items.
    pub(crate) states: Range<u64>,
    /// Those of the recipe `sums`.
    pub(crate) sums: SumsScratch,
    pub(crate) size: u64,
}

/// The ranges of the recipe `sums`, whose rows have whole vec4s.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SumsScratch {
    /// w `[T,E,V]`, of one column more where o is divided, as are all of these.
    pub(crate) values: Range<u64>,
    /// y `[T,max(H,E),V]`, and then the gradients by it; with a delta rule also those by what keys
    /// recall `[T,E,V]`.
    pub(crate) outputs: Range<u64>,
    /// The gradients by w of each output head `[T,max(H,E),V]`; with a delta rule, of each value
    /// head `[T,E,V]`, but for beta.
    pub(crate) of_values: Range<u64>,
    /// The gradients by k' of each output head `[T,max(H,E),F]`; with a delta rule also those of keys
    /// that recall, as keys and as queries, `[T,E,F]` each.
    pub(crate) of_keys: Range<u64>,
    /// The gradients by q' `[T,max(H,E),F]` where they do not take its place, laid out as it.
    pub(crate) of_queries: Range<u64>,
    /// Decays of passes in forward time `[T,E]` and in reversed time `[T,max(H,E)]`; with a delta
    /// rule also `[T,E]`, and betas `[T,E]`.
    pub(crate) decays: Range<u64>,
    /// M, the gradients by M, and both transposed; with a delta rule also zeros.
    pub(crate) states: Range<u64>,
    /// The scratch of the passes.
    pub(crate) passes: Range<u64>,
}

/// Gives tensors their ranges, one behind the other.
pub(super) struct Placer {
    align: u64,
    largest: u64,
    most: u64,
    end: u64,
}

impl Placer {
    pub(super) fn new(limits: &wgpu::Limits) -> Self {
        let align = u64::from(limits.min_storage_buffer_offset_alignment).max(16);
        let largest = limits.max_storage_buffer_binding_size.min(limits.max_buffer_size);
        Self { align, largest, most: limits.max_buffer_size, end: 0 }
    }

    /// Bytes up to where another range may begin.
    pub(super) fn align(&self, bytes: u64) -> u64 {
        bytes.next_multiple_of(self.align)
    }

    /// The range of so many elements; `None` is more than 64 bits count.
    pub(super) fn place(
        &mut self,
        what: &'static str,
        elements: Option<u64>,
    ) -> Result<Range<u64>, PlanError> {
        let elements = elements.unwrap_or(u64::MAX);
        if elements > u64::from(u32::MAX) {
            return Err(PlanError::TooManyElements { what, actual: elements });
        }
        let actual = F32_SIZE * elements;
        if actual > self.largest {
            let (required, largest_batch) = (self.largest, None);
            return Err(PlanError::TooLarge { what, required, actual, largest_batch });
        }
        let begin = self.end.next_multiple_of(self.align);
        self.end = begin + actual;
        Ok(begin..self.end)
    }

    /// Bytes of all.
    pub(super) fn size(self) -> Result<u64, PlanError> {
        if self.end > self.most {
            let (what, required, actual) = ("scratch", self.most, self.end);
            return Err(PlanError::TooLarge { what, required, actual, largest_batch: None });
        }
        Ok(self.end)
    }
}

impl Scratch {
    /// Places the projections, and the gradients by weights of pieces of so many tokens.
    pub(super) fn place_maps(
        &mut self,
        placer: &mut Placer,
        forward: &Plan,
        piece: u32,
    ) -> Result<(), PlanError> {
        let (rows, shape) = (MapRows::new(forward.config()), forward.shape());
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let (e, h) = (u64::from(shape.value_heads), u64::from(shape.output_heads()));
        let pieces = tokens.div_ceil(piece.into());
        let of_piece = e * rows.head_vec4s(0) + h * rows.head_vec4s(1);
        let projections = (tokens * (e + h)).checked_mul(4 * rows.projection_vec4s());
        self.projections = placer.place("projections", projections)?;
        self.partials = placer.place("partials", pieces.checked_mul(4 * of_piece))?;
        Ok(())
    }
}

/// Tokens over which gradients by weights are summed at a time: no more than 64 pieces, no shorter
/// than 256 tokens, and long enough for the sums of many pieces to take no more memory than
/// projections.
pub(super) fn piece_len(forward: &Plan) -> u32 {
    let (key_dim, shape) = (forward.config().key_dim, forward.shape());
    let tokens = shape.batch * shape.seq_len;
    tokens.div_ceil(64).max(256).max(key_dim.next_multiple_of(4) + 1)
}

/// vec4s of a row of q or k on its way through the maps, as shaders/gradient/argument.wgsl and
/// shaders/gradient/weights.wgsl count them.
pub(super) struct MapRows {
    pub(super) elements: u64,
    /// Projections of keys and of queries; 0 where a map has no weights.
    pub(super) weights: [u64; 2],
}

impl MapRows {
    pub(super) fn new(config: &Config) -> Self {
        let weights = |map: &FeatureMap| {
            let rows = map.matrix_rows(config.key_dim).div_ceil(4);
            u64::from(map.matrices()) * u64::from(rows)
        };
        Self {
            elements: config.key_dim.div_ceil(4).into(),
            weights: [weights(config.key_map()), weights(config.query_map())],
        }
    }

    /// A row of scratch, 0 where no map has weights.
    pub(super) fn projection_vec4s(&self) -> u64 {
        let widths = self.weights.map(|weights| if weights > 0 { weights } else { self.elements });
        if self.weights == [0, 0] { 0 } else { widths[0].max(widths[1]) + 1 }
    }

    /// The weights of a head.
    pub(super) fn head_vec4s(&self, of: usize) -> u64 {
        (4 * self.elements + 1) * self.weights[of]
    }
}

//! What is bound: the caller's buffers, checked before wgpu sees them.

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::weights_buffer::WeightsBinding;
use crate::error::BindError;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::feature_map::weights::WeightHeads;
use crate::serve::sequences::Sequences;

/// The tensors of one call, each a range of a buffer with usage `STORAGE`. All may be
/// ranges of one buffer; none may overlap one that is written (`o`, `final_state`, `pool`,
/// `sequences`), except that the initial state may be the very binding of the final one, which
/// updates it in place where [`Plan::updates_in_place`] says so.
///
/// q, k, v and o are stored as [`Config::dtype`](crate::Config::dtype) says, contiguous; a
/// binding has whole 32-bit words ([`Dtype::bytes`](crate::Dtype::bytes)).
///
/// A state is f32, for each sequence mu `[G,F,V]` and then nu `[G,F]`, side by side
/// ([`Plan::state_size`] bytes).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tensors<'a> {
    /// q `[B,T,H,K]`.
    pub q: BufferBinding<'a>,
    /// k `[B,T,G,K]`.
    pub k: BufferBinding<'a>,
    /// v `[B,T,G,V]`.
    pub v: BufferBinding<'a>,
    /// o `[B,T,H,V]`, written.
    pub o: BufferBinding<'a>,
    /// The states of N sequences before their first tokens; `None` is zero.
    pub initial_state: Option<BufferBinding<'a>>,
    /// Where their states after their last tokens go; `None` drops them.
    pub final_state: Option<BufferBinding<'a>>,
    /// A pool of states, updated in place, for a shape
    /// [`with_slots`](crate::Shape::with_slots), and only for one: see
    /// [`StatePool::binding`](crate::serve::StatePool::binding).
    pub pool: Option<BufferBinding<'a>>,
    /// What the call is told about its sequences when it runs, for a shape that has slots or is
    /// [`packed_up_to`](crate::Shape::packed_up_to), and only for one.
    pub sequences: Option<Sequences<'a>>,
    /// The weights of the feature maps, where
    /// [`Config::needs_weights`](crate::Config::needs_weights), and only there.
    pub weights: Option<WeightsBinding<'a>>,
}

impl<'a> Tensors<'a> {
    /// Whole buffers, from no state and to none.
    #[must_use]
    pub fn new(
        q: &'a wgpu::Buffer,
        k: &'a wgpu::Buffer,
        v: &'a wgpu::Buffer,
        o: &'a wgpu::Buffer,
    ) -> Self {
        Self::from_bindings(
            q.as_entire_buffer_binding(),
            k.as_entire_buffer_binding(),
            v.as_entire_buffer_binding(),
            o.as_entire_buffer_binding(),
        )
    }

    /// Ranges of buffers, from no state and to none.
    #[must_use]
    pub fn from_bindings(
        q: BufferBinding<'a>,
        k: BufferBinding<'a>,
        v: BufferBinding<'a>,
        o: BufferBinding<'a>,
    ) -> Self {
        Self {
            q,
            k,
            v,
            o,
            initial_state: None,
            final_state: None,
            pool: None,
            sequences: None,
            weights: None,
        }
    }

    /// With states before the first tokens.
    #[must_use]
    pub fn with_initial_state(self, initial_state: BufferBinding<'a>) -> Self {
        Self { initial_state: Some(initial_state), ..self }
    }

    /// With states after the last tokens.
    #[must_use]
    pub fn with_final_state(self, final_state: BufferBinding<'a>) -> Self {
        Self { final_state: Some(final_state), ..self }
    }

    /// With states in a pool.
    #[must_use]
    pub fn with_pool(self, pool: BufferBinding<'a>) -> Self {
        Self { pool: Some(pool), ..self }
    }

    /// With the sequences of the call.
    #[must_use]
    pub fn with_sequences(self, sequences: Sequences<'a>) -> Self {
        Self { sequences: Some(sequences), ..self }
    }

    /// With the weights of the feature maps.
    #[must_use]
    pub fn with_weights(self, weights: WeightsBinding<'a>) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// Whether the initial state is the final state's own binding.
    pub(crate) fn is_in_place(&self) -> bool {
        match (&self.initial_state, &self.final_state) {
            (Some(initial_state), Some(final_state)) => {
                initial_state.buffer == final_state.buffer
                    && initial_state.offset == final_state.offset
            }
            _ => false,
        }
    }
}

/// A binding cut to exactly the bytes of its tensor.
#[derive(Clone, Debug)]
pub(crate) struct Range<'a> {
    pub(crate) tensor: &'static str,
    pub(crate) binding: BufferBinding<'a>,
    pub(crate) len: u64,
    written: bool,
}

impl Range<'_> {
    fn end(&self) -> u64 {
        self.binding.offset + self.len
    }
}

/// Every tensor of a call, checked: names, ranges and who writes.
pub(crate) struct Checked<'a> {
    pub(crate) q: Range<'a>,
    pub(crate) k: Range<'a>,
    pub(crate) v: Range<'a>,
    pub(crate) o: Range<'a>,
    pub(crate) initial_state: Option<Range<'a>>,
    /// The final states, or the pool.
    pub(crate) final_state: Option<Range<'a>>,
    pub(crate) sequences: Option<Range<'a>>,
    pub(crate) weights: Option<Range<'a>>,
    pub(crate) weight_heads: WeightHeads,
    /// Whether nobody has checked them.
    pub(crate) may_clash: bool,
    pub(crate) scratch: Option<Range<'a>>,
    /// Whether the initial state lies in `final_state`.
    pub(crate) in_place: bool,
}

pub(crate) fn check<'a>(
    plan: &Plan,
    tensors: &Tensors<'a>,
    scratch: Option<&BufferBinding<'a>>,
    limits: &wgpu::Limits,
) -> Result<Checked<'a>, BindError> {
    let align = u64::from(limits.min_storage_buffer_offset_alignment);
    let dtype = plan.config().dtype;
    let lens = plan.lens();
    let range = |tensor, binding: &BufferBinding<'a>, len, written| {
        check_one(Range { tensor, binding: binding.clone(), len, written }, align)
    };
    let optional = |tensor, binding: &Option<BufferBinding<'a>>, len, written| {
        binding.as_ref().map(|binding| range(tensor, binding, len, written)).transpose()
    };
    let slots = plan.shape().slots;
    for (tensor, is_bound, is_needed, may_be) in [
        ("initial_state", tensors.initial_state.is_some(), false, slots.is_none()),
        ("final_state", tensors.final_state.is_some(), false, slots.is_none()),
        ("pool", tensors.pool.is_some(), slots.is_some(), slots.is_some()),
        ("sequences", tensors.sequences.is_some(), plan.reads_sequences(), plan.reads_sequences()),
        ("weights", tensors.weights.is_some(), false, plan.config().needs_weights()),
    ] {
        if is_needed && !is_bound {
            return Err(BindError::Missing { tensor });
        }
        if is_bound && !may_be {
            return Err(BindError::Unexpected { tensor });
        }
    }
    let states = lens.state * F32_SIZE;
    let pool_size = u64::from(slots.unwrap_or(0)) * plan.state_size();
    // A pool of other states has another size: of more heads, say.
    if let Some(actual) = tensors.pool.as_ref().and_then(|pool| pool.size)
        && actual.get() != pool_size
    {
        return Err(BindError::PoolSize { required: pool_size, actual: actual.get() });
    }
    let sequences = match &tensors.sequences {
        Some(Sequences::Host(batch)) => {
            batch.check(plan, tensors.pool.as_ref())?;
            Some(batch.binding())
        }
        Some(Sequences::Device(binding)) => Some(binding.clone()),
        None => None,
    };
    let weight_heads = tensors.weights.as_ref().map_or(WeightHeads::default(), |w| w.heads);
    weight_heads.check(plan.config(), plan.shape())?;
    let weights = tensors.weights.as_ref().map(|weights| &weights.buffer);
    let checked = Checked {
        weights: optional("weights", &weights.cloned(), weight_heads.size(plan.config()), false)?,
        weight_heads,
        q: range("q", &tensors.q, dtype.bytes(lens.q), false)?,
        k: range("k", &tensors.k, dtype.bytes(lens.k), false)?,
        v: range("v", &tensors.v, dtype.bytes(lens.v), false)?,
        o: range("o", &tensors.o, dtype.bytes(lens.o), true)?,
        initial_state: optional("initial_state", &tensors.initial_state, states, false)?,
        final_state: match slots {
            None => optional("final_state", &tensors.final_state, states, true)?,
            Some(_) => optional("pool", &tensors.pool, pool_size, true)?,
        },
        sequences: sequences
            .map(|b| range("sequences", &b, plan.sequences_size(), true))
            .transpose()?,
        may_clash: matches!(tensors.sequences, Some(Sequences::Device(_))),
        scratch: match plan.scratch_size() {
            0 => None,
            len => {
                let scratch = scratch.ok_or(BindError::Missing { tensor: "scratch" })?;
                Some(range("scratch", scratch, len, true)?)
            }
        },
        in_place: tensors.is_in_place() || slots.is_some(),
    };
    if tensors.is_in_place() && !plan.updates_in_place() {
        return Err(BindError::InPlace { actual: plan.readers_per_state() });
    }
    checked.check_overlaps()?;
    Ok(checked)
}

impl<'a> Checked<'a> {
    fn check_overlaps(&self) -> Result<(), BindError> {
        let mut all: Vec<&Range<'a>> = vec![&self.q, &self.k, &self.v, &self.o];
        all.extend(&self.final_state);
        all.extend(&self.sequences);
        all.extend(&self.weights);
        all.extend(&self.scratch);
        if !self.in_place {
            all.extend(&self.initial_state);
        }
        for (i, first) in all.iter().enumerate() {
            for second in &all[i + 1..] {
                if !(first.written || second.written)
                    || first.binding.buffer != second.binding.buffer
                {
                    continue;
                }
                let begin = first.binding.offset.max(second.binding.offset);
                let bytes = first.end().min(second.end()).saturating_sub(begin);
                if bytes > 0 {
                    return Err(BindError::Overlap {
                        first: first.tensor,
                        second: second.tensor,
                        bytes,
                    });
                }
            }
        }
        Ok(())
    }
}

fn check_one(range: Range<'_>, align: u64) -> Result<Range<'_>, BindError> {
    let Range { tensor, binding, len, .. } = &range;
    let (tensor, buffer) = (*tensor, binding.buffer);
    if !buffer.usage().contains(BufferUsages::STORAGE) {
        return Err(BindError::Usage { tensor, actual: format!("{:?}", buffer.usage()) });
    }
    if !binding.offset.is_multiple_of(align) {
        return Err(BindError::Misaligned { tensor, required: align, actual: binding.offset });
    }
    let bound = binding.size.map(u64::from);
    let end = binding.offset.saturating_add(bound.unwrap_or(0));
    if end > buffer.size() {
        return Err(BindError::BeyondBuffer { tensor, required: buffer.size(), actual: end });
    }
    let actual = bound.unwrap_or(buffer.size() - binding.offset);
    if actual < *len {
        return Err(BindError::TooSmall { tensor, required: *len, actual });
    }
    Ok(range)
}

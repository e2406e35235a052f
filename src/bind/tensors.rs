//! The caller's bindings, checked before wgpu sees them.

use wgpu::{BufferBinding, BufferUsages};

use crate::bind::weights_buffer::WeightsBinding;
use crate::error::BindError;
use crate::plan::steps::Memory;
use crate::plan::{Plan, States};
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::tensor::{Access, Tensor};
use crate::serve::sequences::Sequences;

/// The tensors of one call, each a range of a buffer with usage `STORAGE`. All may be
/// ranges of one buffer; none may overlap one that is written (`o`, `final_state`, `pool`,
/// `sequences`), except that the initial state may be the very binding of the final one, which
/// updates it in place where [`Plan::updates_in_place`] says so.
///
/// q, k, v and o are stored as [`Config::dtype`](crate::Config::dtype) says, contiguous or as
/// [`Shape::with_strides`](crate::Shape::with_strides) has them; a binding has whole 32-bit words
/// ([`Dtype::bytes`](crate::Dtype::bytes)). q, k and v that overlap, as views of one buffer do, are
/// in buffers that hold no other tensor of the call.
///
/// A state is f32: for each sequence mu `[E,F,V]`, then nu `[E,F]` where o is normalised,
/// contiguous ([`Plan::state_size`] bytes).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Tensors<'a> {
    /// q `[B,T,H,K]`.
    pub q: BufferBinding<'a>,
    /// k `[B,T,G,K]`.
    pub k: BufferBinding<'a>,
    /// v `[B,T,E,V]`.
    pub v: BufferBinding<'a>,
    /// o `[B,T,max(H,E),V]`, written.
    pub o: BufferBinding<'a>,
    /// The decays, or what an activation makes decays of: `[E]`, `[B,T,E]` or `[B,T,E,F]`, where the
    /// update rule has any, and only there. Of type [`Decay::dtype`](crate::update_rule::Decay::dtype).
    pub decay: Option<BufferBinding<'a>>,
    /// beta `[B,T,E]` or `[B,T,1]`, where the update rule has it, and only there. Of type
    /// [`Beta::dtype`](crate::update_rule::Beta::dtype).
    pub beta: Option<BufferBinding<'a>>,
    /// `A_log` `[E]` and then `dt_bias` `[E]` or `[E,F]` in f32, where decays have an activation,
    /// and only there.
    pub gate_weights: Option<BufferBinding<'a>>,
    /// The states of N sequences before their first tokens; `None` is zero.
    pub initial_state: Option<BufferBinding<'a>>,
    /// Their states after their last tokens, written; `None` drops them.
    pub final_state: Option<BufferBinding<'a>>,
    /// A pool of states, updated in place, for a shape
    /// [`with_slots`](crate::Shape::with_slots), and only for one: see
    /// [`StatePool::binding`](crate::serve::StatePool::binding).
    pub pool: Option<BufferBinding<'a>>,
    /// The source of the sequence metadata, for a shape that has slots or is
    /// [`packed_up_to`](crate::Shape::packed_up_to), and only for one.
    pub sequences: Option<Sequences<'a>>,
    /// The weights of the feature maps, where
    /// [`Config::needs_weights`](crate::Config::needs_weights), and only there.
    pub weights: Option<WeightsBinding<'a>>,
    /// A word that says, once the call has run, which key has a feature that is infinite or NaN:
    /// see
    /// [`Shape::faulty_key`](crate::Shape::faulty_key). `None` looks at none.
    pub key_status: Option<BufferBinding<'a>>,
}

impl<'a> Tensors<'a> {
    /// Whole buffers, without an initial or a final state.
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

    /// Ranges of buffers, without an initial or a final state.
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
            decay: None,
            beta: None,
            gate_weights: None,
            initial_state: None,
            final_state: None,
            pool: None,
            sequences: None,
            weights: None,
            key_status: None,
        }
    }

    /// With the decays of the update rule.
    #[must_use]
    pub fn with_decay(self, decay: BufferBinding<'a>) -> Self {
        Self { decay: Some(decay), ..self }
    }

    /// With the betas of the update rule.
    #[must_use]
    pub fn with_beta(self, beta: BufferBinding<'a>) -> Self {
        Self { beta: Some(beta), ..self }
    }

    /// With the weights of the decays' activation.
    #[must_use]
    pub fn with_gate_weights(self, gate_weights: BufferBinding<'a>) -> Self {
        Self { gate_weights: Some(gate_weights), ..self }
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

    /// With a word of u32 that says which key has a feature that is infinite or NaN, and so spoils
    /// its sequence and head from there on. `run` names such keys by itself; this is for buffers.
    /// It costs a look at each feature, and a storage buffer of the stage.
    #[must_use]
    pub fn with_key_status(self, key_status: BufferBinding<'a>) -> Self {
        Self { key_status: Some(key_status), ..self }
    }

    /// True if the initial state is the final state's own binding.
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

/// A binding, limited to exactly the bytes of its tensor.
#[derive(Clone, Debug)]
pub(crate) struct Range<'a> {
    pub(crate) tensor: &'static str,
    pub(crate) binding: BufferBinding<'a>,
    pub(crate) len: u64,
    pub(crate) is_written: bool,
}

impl Range<'_> {
    fn end(&self) -> u64 {
        self.binding.offset + self.len
    }

    /// Refuses memory that both have, where either is written.
    pub(crate) fn check_overlap(&self, other: &Self) -> Result<(), BindError> {
        if !(self.is_written || other.is_written) || self.binding.buffer != other.binding.buffer {
            return Ok(());
        }
        let begin = self.binding.offset.max(other.binding.offset);
        let bytes = self.end().min(other.end()).saturating_sub(begin);
        if bytes > 0 {
            let (first, second) = (self.tensor, other.tensor);
            return Err(BindError::Overlap { first, second, bytes });
        }
        Ok(())
    }
}

/// Every tensor that a call has, checked.
pub(crate) struct Checked<'a> {
    tensors: Vec<(Tensor, Range<'a>)>,
    pub(crate) scratch: Option<Range<'a>>,
    pub(crate) weight_heads: WeightHeads,
    pub(crate) memory: Memory,
    /// True if one binding is both the initial and the final state.
    pub(crate) is_in_place: bool,
}

/// Checks every binding against the table of tensors.
pub(crate) fn check<'a>(
    plan: &Plan,
    tensors: &Tensors<'a>,
    scratch: Option<&BufferBinding<'a>>,
    limits: &wgpu::Limits,
) -> Result<Checked<'a>, BindError> {
    let align = u64::from(limits.min_storage_buffer_offset_alignment);
    let (is_pooled, reads_sequences) = (plan.shape().slots.is_some(), plan.reads_sequences());
    let sequences = tensors.sequences.as_ref().map(|sequences| match sequences {
        Sequences::Host(batch) => batch.binding(),
        Sequences::Device(binding) => binding.clone(),
    });
    let (state, pool) = (tensors.initial_state.clone(), tensors.pool.clone());
    let weights = tensors.weights.as_ref().map(|weights| weights.buffer.clone());
    let rule = plan.config().update_rule;
    let (has_decay, has_beta) = (rule.decay().is_some(), rule.beta().is_some());
    let has_weights = rule.needs_gate_weights();
    // Each tensor's binding, and whether the plan needs and accepts one.
    let bindings = [
        (Tensor::Q, Some(tensors.q.clone()), true, true),
        (Tensor::K, Some(tensors.k.clone()), true, true),
        (Tensor::V, Some(tensors.v.clone()), true, true),
        (Tensor::O, Some(tensors.o.clone()), true, true),
        (Tensor::Decay, tensors.decay.clone(), has_decay, has_decay),
        (Tensor::Beta, tensors.beta.clone(), has_beta, has_beta),
        (Tensor::GateWeights, tensors.gate_weights.clone(), has_weights, has_weights),
        (Tensor::FinalState, tensors.final_state.clone(), false, !is_pooled),
        (Tensor::Pool, pool, is_pooled, is_pooled),
        (Tensor::Sequences, sequences, reads_sequences, reads_sequences),
        (Tensor::Weights, weights, false, plan.config().needs_weights()),
        (Tensor::InitialState, state, false, !is_pooled),
        (Tensor::KeyStatus, tensors.key_status.clone(), false, true),
    ];
    for (tensor, binding, is_needed, is_accepted) in &bindings {
        let tensor = tensor.name();
        match binding {
            None if *is_needed => return Err(BindError::Missing { tensor }),
            Some(_) if !is_accepted => return Err(BindError::Unexpected { tensor }),
            _ => {}
        }
    }
    // A pool of other states has another size: of more heads, say.
    let required = plan.bytes(Tensor::Pool);
    if let Some(actual) = tensors.pool.as_ref().and_then(|pool| pool.size)
        && actual.get() != required
    {
        return Err(BindError::PoolSize { required, actual: actual.get() });
    }
    if plan.shape().checkpoints > 0 && matches!(tensors.sequences, Some(Sequences::Device(_))) {
        return Err(BindError::Checkpoints);
    }
    if let Some(Sequences::Host(batch)) = &tensors.sequences {
        batch.check(plan, tensors.pool.as_ref())?;
    }
    let weight_heads = tensors.weights.as_ref().map_or(WeightHeads::default(), |w| w.heads);
    weight_heads.check(plan.config(), plan.shape())?;

    let mut checked = Checked {
        tensors: Vec::with_capacity(bindings.len()),
        scratch: None,
        weight_heads,
        memory: Memory {
            is_untrusted: matches!(tensors.sequences, Some(Sequences::Device(_))),
            reads_only: false,
            checks_keys: tensors.key_status.is_some(),
        },
        is_in_place: tensors.is_in_place() || is_pooled,
    };
    for (tensor, binding, ..) in bindings {
        let Some(binding) = binding else { continue };
        let len = bound_len(plan, tensor, weight_heads, checked.memory.is_untrusted);
        let is_written = tensor.access() != Access::Read;
        let range = Range { tensor: tensor.name(), binding, len, is_written };
        checked.tensors.push((tensor, check_one(range, align)?));
    }
    if plan.scratch_size() > 0 {
        let (tensor, len) = ("scratch", plan.scratch_size());
        let binding = scratch.cloned().ok_or(BindError::Missing { tensor })?;
        let range = Range { tensor, binding, len, is_written: true };
        checked.scratch = Some(check_one(range, align)?);
    }
    if tensors.is_in_place() && !plan.updates_in_place() {
        return Err(BindError::InPlace { actual: plan.readers_per_state() });
    }
    checked.check_overlaps()?;
    checked.memory.reads_only = checked.are_shared()?;
    Ok(checked)
}

impl<'a> Checked<'a> {
    /// The range of a tensor, or `None` where the call has no such tensor.
    pub(crate) fn get(&self, tensor: Tensor) -> Option<&Range<'a>> {
        self.tensors.iter().find(|(of, _)| *of == tensor).map(|(_, range)| range)
    }

    /// The states of the call.
    pub(crate) fn states(&self) -> States {
        let [initial, last] = [Tensor::InitialState, Tensor::FinalState].map(|t| self.get(t));
        match (initial.is_some(), last.is_some()) {
            _ if self.is_in_place => States::InPlace,
            (false, false) => States::None,
            (true, false) => States::Initial,
            (false, true) => States::Final,
            (true, true) => States::InitialAndFinal,
        }
    }

    fn check_overlaps(&self) -> Result<(), BindError> {
        let is_shared = |tensor| tensor == Tensor::InitialState && self.is_in_place;
        let tensors = self.tensors.iter().filter(|(tensor, _)| !is_shared(*tensor));
        let all: Vec<&Range<'a>> =
            tensors.map(|(_, range)| range).chain(self.scratch.as_ref()).collect();
        for (i, first) in all.iter().enumerate() {
            for second in &all[i + 1..] {
                first.check_overlap(second)?;
            }
        }
        Ok(())
    }
}

impl Checked<'_> {
    fn are_shared(&self) -> Result<bool, BindError> {
        let rows = [Tensor::Q, Tensor::K, Tensor::V].map(|tensor| self.get(tensor));
        let [Some(q), Some(k), Some(v)] = rows else { return Ok(false) };
        let is_row = |tensor: &Tensor| matches!(tensor, Tensor::Q | Tensor::K | Tensor::V);
        let others = self.tensors.iter().filter(|(tensor, _)| !is_row(tensor));
        share_rows([q, k, v], others.map(|(_, range)| range).chain(self.scratch.as_ref()))
    }
}

/// True if two of q, k and v have bytes in common: then none may be bound as writable, and WebGPU
/// lets no buffer be bound both ways.
pub(crate) fn share_rows<'r, 'a: 'r>(
    [q, k, v]: [&Range<'a>; 3],
    others: impl IntoIterator<Item = &'r Range<'a>>,
) -> Result<bool, BindError> {
    let overlap = |(first, second): (&Range<'_>, &Range<'_>)| {
        first.binding.buffer == second.binding.buffer
            && first.binding.offset < second.end()
            && second.binding.offset < first.end()
    };
    if ![(q, k), (q, v), (k, v)].into_iter().any(overlap) {
        return Ok(false);
    }
    for other in others {
        let shares = |row: &&Range<'_>| row.binding.buffer == other.binding.buffer;
        if let Some(row) = [q, k, v].into_iter().find(shares) {
            return Err(BindError::SharedBuffer { first: row.tensor, second: other.tensor });
        }
    }
    Ok(true)
}

/// Bytes of a tensor that are bound.
pub(crate) fn bound_len(
    plan: &Plan,
    tensor: Tensor,
    weights: WeightHeads,
    is_untrusted: bool,
) -> u64 {
    match tensor {
        Tensor::Weights => weights.size(plan.config()),
        Tensor::Sequences if is_untrusted => plan.sequences_size(),
        _ => plan.bytes(tensor),
    }
}

pub(crate) fn check_one(range: Range<'_>, align: u64) -> Result<Range<'_>, BindError> {
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

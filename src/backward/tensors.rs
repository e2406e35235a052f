//! The tensors of a backward pass, checked before wgpu sees them.

use wgpu::BufferBinding;

use crate::backward::plan::BackwardPlan;
use crate::bind::tensors::{Range, check_one, share_rows};
use crate::bind::weights_buffer::WeightsBinding;
use crate::error::BindError;
use crate::kernel::gradient::GradientBinding;
use crate::plan::F32_SIZE;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::tensor::Tensor;

/// The tensors of one backward pass, each a range of a buffer with usage `STORAGE`. Inputs are as
/// in
/// [`Tensors`](crate::Tensors): q, k and v of [`Config::dtype`](crate::Config::dtype), with the shape's
/// strides. All gradients are f32, each laid out as what it is the gradient by, with the same
/// strides; nothing is written between rows. None may overlap one that is written: gradients by
/// views of one buffer need a buffer each. q, k and v may overlap where no other tensor is in their
/// buffer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BackwardTensors<'a> {
    /// q `[B,T,H,K]`.
    pub q: BufferBinding<'a>,
    /// k `[B,T,G,K]`.
    pub k: BufferBinding<'a>,
    /// v `[B,T,E,V]`.
    pub v: BufferBinding<'a>,
    /// The decays, where the update rule has any, and only there.
    pub decay: Option<BufferBinding<'a>>,
    /// beta, where the update rule has it, and only there.
    pub beta: Option<BufferBinding<'a>>,
    /// `A_log` and `dt_bias`, where decays have an activation, and only there.
    pub gate_weights: Option<BufferBinding<'a>>,
    /// The weights of the feature maps, where
    /// [`Config::needs_weights`](crate::Config::needs_weights), and only there.
    pub weights: Option<WeightsBinding<'a>>,
    /// The states before the first tokens, `[N,state]`; `None` is zero.
    pub initial_state: Option<BufferBinding<'a>>,
    /// The gradient by o `[B,T,max(H,E),V]`.
    pub of_o: BufferBinding<'a>,
    /// That by the states after the last tokens; `None` is zero.
    pub of_final_state: Option<BufferBinding<'a>>,
    /// Written: the gradient by q.
    pub of_q: BufferBinding<'a>,
    /// By k.
    pub of_k: BufferBinding<'a>,
    /// By v.
    pub of_v: BufferBinding<'a>,
    /// By decay, where there is one.
    pub of_decay: Option<BufferBinding<'a>>,
    /// By beta, where there is one.
    pub of_beta: Option<BufferBinding<'a>>,
    /// By `A_log` and `dt_bias`, where there are any.
    pub of_gate_weights: Option<BufferBinding<'a>>,
    /// By the weights of the feature maps, laid out as
    /// [`WeightHeads`](crate::feature_map::WeightHeads) says, with zeros where W has no rows or
    /// columns: over all tokens, and over all heads that share weights. `None` drops it, for
    /// weights that are not trained.
    pub of_weights: Option<BufferBinding<'a>>,
    /// By the initial states; `None` drops it.
    pub of_initial_state: Option<BufferBinding<'a>>,
}

impl<'a> BackwardTensors<'a> {
    /// Whole buffers, without gates and states: q, k and v, the gradient by o, and those by q, k
    /// and v, which are written.
    #[must_use]
    pub fn new(
        [q, k, v]: [&'a wgpu::Buffer; 3],
        of_o: &'a wgpu::Buffer,
        [of_q, of_k, of_v]: [&'a wgpu::Buffer; 3],
    ) -> Self {
        let whole = wgpu::Buffer::as_entire_buffer_binding;
        Self::from_bindings([q, k, v].map(whole), whole(of_o), [of_q, of_k, of_v].map(whole))
    }

    /// The same of ranges of buffers.
    #[must_use]
    pub fn from_bindings(
        [q, k, v]: [BufferBinding<'a>; 3],
        of_o: BufferBinding<'a>,
        [of_q, of_k, of_v]: [BufferBinding<'a>; 3],
    ) -> Self {
        Self {
            q,
            k,
            v,
            decay: None,
            beta: None,
            gate_weights: None,
            weights: None,
            initial_state: None,
            of_o,
            of_final_state: None,
            of_q,
            of_k,
            of_v,
            of_decay: None,
            of_beta: None,
            of_gate_weights: None,
            of_weights: None,
            of_initial_state: None,
        }
    }

    /// With decays and the gradient by them.
    #[must_use]
    pub fn with_decay(self, decay: BufferBinding<'a>, of_decay: BufferBinding<'a>) -> Self {
        Self { decay: Some(decay), of_decay: Some(of_decay), ..self }
    }

    /// With betas and the gradient by them.
    #[must_use]
    pub fn with_beta(self, beta: BufferBinding<'a>, of_beta: BufferBinding<'a>) -> Self {
        Self { beta: Some(beta), of_beta: Some(of_beta), ..self }
    }

    /// With the weights of the decays' activation and the gradient by them.
    #[must_use]
    pub fn with_gate_weights(
        self,
        gate_weights: BufferBinding<'a>,
        of_gate_weights: BufferBinding<'a>,
    ) -> Self {
        Self { gate_weights: Some(gate_weights), of_gate_weights: Some(of_gate_weights), ..self }
    }

    /// With the weights of the feature maps and the gradient by them.
    #[must_use]
    pub fn with_weights(
        self,
        weights: WeightsBinding<'a>,
        of_weights: Option<BufferBinding<'a>>,
    ) -> Self {
        Self { weights: Some(weights), of_weights, ..self }
    }

    /// With initial states and the gradient by them.
    #[must_use]
    pub fn with_initial_state(
        self,
        initial_state: BufferBinding<'a>,
        of_initial_state: BufferBinding<'a>,
    ) -> Self {
        Self {
            initial_state: Some(initial_state),
            of_initial_state: Some(of_initial_state),
            ..self
        }
    }

    /// With the gradient by the final states.
    #[must_use]
    pub fn with_final_state(self, of_final_state: BufferBinding<'a>) -> Self {
        Self { of_final_state: Some(of_final_state), ..self }
    }

    pub(super) fn check(
        &self,
        plan: &BackwardPlan,
        scratch: BufferBinding<'a>,
        limits: &wgpu::Limits,
    ) -> Result<Checked<'a>, BindError> {
        use GradientBinding as To;
        let heads = self.weights.as_ref().map_or(WeightHeads::default(), |weights| weights.heads);
        if self.weights.is_some() && plan.forward.config().needs_weights() {
            heads.check(plan.forward.config(), plan.shape())?;
        }
        let (config, lens) = (plan.forward.config(), plan.lens());
        let rule = config.update_rule;
        let f32s = |len: u64| F32_SIZE * len;
        let of = |tensor: Tensor| plan.forward.bytes(tensor);
        let (decays, betas) = (rule.decay().is_some(), rule.beta().is_some());
        let weights = rule.needs_gate_weights();
        let some = |binding: &BufferBinding<'a>| Some(binding.clone());
        let bindings = [
            (To::Q, "q", some(&self.q), of(Tensor::Q), true, false),
            (To::K, "k", some(&self.k), of(Tensor::K), true, false),
            (To::V, "v", some(&self.v), of(Tensor::V), true, false),
            (To::Decay, "decay", self.decay.clone(), of(Tensor::Decay), decays, false),
            (To::Beta, "beta", self.beta.clone(), of(Tensor::Beta), betas, false),
            (
                To::GateWeights,
                "gate_weights",
                self.gate_weights.clone(),
                of(Tensor::GateWeights),
                weights,
                false,
            ),
            (To::OfO, "of_o", some(&self.of_o), f32s(lens.o), true, false),
            (To::OfQ, "of_q", some(&self.of_q), f32s(lens.q), true, true),
            (To::OfK, "of_k", some(&self.of_k), f32s(lens.k), true, true),
            (To::OfV, "of_v", some(&self.of_v), f32s(lens.v), true, true),
            (To::OfDecay, "of_decay", self.of_decay.clone(), f32s(lens.decay), decays, true),
            (To::OfBeta, "of_beta", self.of_beta.clone(), f32s(lens.beta), betas, true),
            (
                To::OfGateWeights,
                "of_gate_weights",
                self.of_gate_weights.clone(),
                f32s(lens.gate_weights),
                weights,
                true,
            ),
        ];
        let maps = config.needs_weights();
        let given = self.weights.as_ref().map(|weights| weights.buffer.clone());
        let of_given = self.of_weights.clone();
        let of_maps = maps && of_given.is_some();
        let weights = [
            (To::Weights, "weights", given, heads.size(config), maps, false),
            (To::OfWeights, "of_weights", of_given, heads.size(config), of_maps, true),
        ];
        let states = plan.states_size();
        let states = [
            (To::InitialState, "initial_state", self.initial_state.clone(), false),
            (To::OfFinalState, "of_final_state", self.of_final_state.clone(), false),
            (To::OfInitialState, "of_initial_state", self.of_initial_state.clone(), true),
        ]
        .map(|(to, tensor, binding, is_written)| {
            let is_given = binding.is_some();
            (to, tensor, binding, states, is_given, is_written)
        });
        let align = u64::from(limits.min_storage_buffer_offset_alignment);
        let mut tensors = Vec::with_capacity(bindings.len());
        let all = bindings.into_iter().chain(weights).chain(states);
        for (to, tensor, binding, len, is_needed, is_written) in all {
            match binding {
                None if is_needed => return Err(BindError::Missing { tensor }),
                Some(_) if !is_needed => return Err(BindError::Unexpected { tensor }),
                None => {}
                Some(binding) => {
                    let range = Range { tensor, binding, len, is_written };
                    tensors.push((to, check_one(range, align)?));
                }
            }
        }
        let len = plan.scratch_size();
        let scratch = Range { tensor: "scratch", binding: scratch, len, is_written: true };
        let checked = Checked { tensors, weights: heads, scratch: check_one(scratch, align)? };
        checked.check_overlaps()?;
        Ok(checked)
    }
}

/// Every tensor of a backward pass, checked.
pub(super) struct Checked<'a> {
    pub(super) tensors: Vec<(GradientBinding, Range<'a>)>,
    /// The heads that have weights of their own.
    pub(super) weights: WeightHeads,
    pub(super) scratch: Range<'a>,
}

impl<'a> Checked<'a> {
    pub(super) fn get(&self, tensor: GradientBinding) -> Option<&Range<'a>> {
        self.tensors.iter().find(|(of, _)| *of == tensor).map(|(_, range)| range)
    }

    /// True if q, k and v have bytes in common.
    pub(super) fn shares_rows(&self) -> Result<bool, BindError> {
        use GradientBinding::{K, Q, V};
        let rows = [Q, K, V].map(|tensor| self.get(tensor));
        let [Some(q), Some(k), Some(v)] = rows else { return Ok(false) };
        let others = self.tensors.iter().filter(|(of, _)| ![Q, K, V].contains(of));
        share_rows([q, k, v], others.map(|(_, range)| range).chain([&self.scratch]))
    }

    fn check_overlaps(&self) -> Result<(), BindError> {
        let tensors = self.tensors.iter().map(|(_, range)| range);
        let all: Vec<&Range<'a>> = tensors.chain([&self.scratch]).collect();
        for (i, first) in all.iter().enumerate() {
            for second in &all[i + 1..] {
                first.check_overlap(second)?;
            }
        }
        Ok(())
    }
}

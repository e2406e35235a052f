//! A call, with all that the caller binds.

use super::entries::Sequence;
use crate::bind::tensors::bound_len;
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan, States};
use crate::problem::feature_map::random::Random;
use crate::problem::shape::Packing;
use crate::problem::state;
use crate::problem::tensor::Tensor;
use crate::verify::case::{Case, Sample};

/// A call of a plan.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) case: Case,
    pub(super) tuning: Tuning,
    pub(super) limits: wgpu::Limits,
    pub(super) states: States,
    /// The words of the caller's buffer of sequences after the status; empty where the plan has
    /// none.
    pub(super) words: Vec<u32>,
    /// True if the host has not checked those words.
    pub(super) is_untrusted: bool,
    pub(super) seed: u64,
}

/// A call with its plan and its inputs.
pub(super) struct Prepared<'a> {
    pub(super) call: &'a Call,
    pub(super) plan: Plan,
    pub(super) sample: Sample,
    /// The states before the call: of N sequences, or of all slots.
    pub(super) before: Vec<f32>,
    pub(super) sequences: Vec<Sequence>,
    /// Used entries that cannot be.
    pub(super) ignored: u32,
}

impl Call {
    /// `None` where no plan accepts the call.
    pub(super) fn prepare(&self) -> Option<Prepared<'_>> {
        let Case { config, shape, .. } = &self.case;
        let mut tuning = self.tuning;
        self.case.set_segments(&mut tuning);
        let plan = Plan::new(config, shape, &self.limits, &tuning).ok()?;
        self.case.weights.check(config, shape).ok()?;
        if self.states == States::InPlace && shape.slots.is_none() && !plan.updates_in_place() {
            return None;
        }
        let mut sampled = self.case.clone();
        if self.is_untrusted && shape.is_padded() {
            // Any token may be one of a sequence.
            sampled.shape.packing = Packing::Equal;
        }
        let sample = sampled.sample(self.seed, plan.lens());
        let (sequences, ignored) = self.sequences(&plan);
        let before = self.states_before(&plan);
        Some(Prepared { call: self, plan, sample, before, sequences, ignored })
    }

    /// All that a failure needs to be repeated.
    pub(super) fn describe(&self) -> String {
        let Case { config, shape, segments, weights, .. } = &self.case;
        let (layout, len) = (self.tuning.layout, self.tuning.segment_len);
        let width = self.limits.max_compute_workgroups_per_dimension;
        format!(
            "{config:?}\n    {shape:?}\n    {layout:?} segments {segments} of {len:?}, {weights:?}, \
             {:?}, {:?}, untrusted: {}, grid width {width}, seed {:#x}",
            self.states, self.words, self.is_untrusted, self.seed
        )
    }

    /// States of which nu is positive.
    fn states_before(&self, plan: &Plan) -> Vec<f32> {
        let mut random = Random::new(!self.seed);
        let shape = &self.case.shape;
        let count = shape.slots.unwrap_or(shape.sequences()) as usize;
        let len = plan.state_size() / F32_SIZE * count as u64;
        let heads = u64::from(shape.value_heads) * u64::from(plan.config().features());
        let mu_len = count * (heads * u64::from(plan.config().value_dim)) as usize;
        let all: Vec<f32> = (0..len).map(|_| 4.0 * random.uniform() - 2.0).collect();
        let (mu, nu) = all.split_at(mu_len);
        let nu: Vec<f32> = nu.iter().map(|x| x.abs() + 0.5).collect();
        state::join(count, mu, &nu)
    }
}

impl Prepared<'_> {
    pub(super) fn has_initial(&self) -> bool {
        let given = [States::Initial, States::InitialAndFinal, States::InPlace];
        self.plan.shape().slots.is_some() || given.contains(&self.call.states)
    }

    pub(super) fn has_final(&self) -> bool {
        let stored = [States::Final, States::InitialAndFinal, States::InPlace];
        self.plan.shape().slots.is_some() || stored.contains(&self.call.states)
    }

    /// The bytes of a tensor that are bound; `None` where the call has no such tensor.
    pub(super) fn len(&self, tensor: Tensor) -> Option<u64> {
        let is_pooled = self.plan.shape().slots.is_some();
        let is_bound = match tensor {
            Tensor::InitialState => self.has_initial() && !is_pooled,
            Tensor::FinalState => self.has_final() && !is_pooled,
            Tensor::Pool => is_pooled,
            Tensor::Sequences => self.plan.reads_sequences(),
            Tensor::Weights => self.plan.config().needs_weights(),
            Tensor::KeyStatus => false,
            _ => true,
        };
        is_bound.then(|| {
            let (weights, is_untrusted) = (self.call.case.weights, self.call.is_untrusted);
            bound_len(&self.plan, tensor, weights, is_untrusted)
        })
    }

    /// Elements of one state.
    pub(super) fn state_len(&self) -> usize {
        (self.plan.state_size() / F32_SIZE) as usize
    }

    /// State `index` of some.
    pub(super) fn state<'s>(&self, states: &'s [f32], index: usize) -> &'s [f32] {
        &states[index * self.state_len()..][..self.state_len()]
    }
}

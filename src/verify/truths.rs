//! The results of stages in f64, from the definition.

use super::device::Run;
use crate::error::Error;
use crate::plan::segments::Segment;
use crate::problem::config::Config;
use crate::problem::gates::Kept;
use crate::problem::heads::{Heads, Rows};
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;
use crate::problem::state::{self, StateSlices};
use crate::problem::tensor::Tensor;
use crate::reference::{self, Output64};

impl Run<'_> {
    /// The state after a segment that starts from zero, in f64.
    pub(super) fn added_truth(&self, segment: &Segment) -> Result<Vec<f64>, Error> {
        let Output64 { mut mu, nu, .. } =
            self.segment_truth(&self.case.config, segment, &self.sample.v, None)?;
        mu.extend(nu);
        Ok(mu)
    }

    /// The matrices of a segment in f64: what the rule makes of I, without values.
    pub(super) fn transition_truth(&self, segment: &Segment) -> Result<Vec<f64>, Error> {
        let features = self.case.config.features();
        let config = Config { value_dim: features, ..self.case.config.clone() };
        let heads = self.case.shape.value_heads as usize;
        let tokens = self.sample.v.len() / self.case.config.value_dim as usize;
        let v = vec![0.0; tokens * features as usize];
        let (f, len) = (features as usize, (features * features) as usize);
        let mut identity = vec![0.0; heads * len];
        (0..heads * f).for_each(|i| identity[i * f + i % f] = 1.0);
        let initial = StateSlices { mu: &identity, nu: &[] };
        Ok(self.segment_truth(&config, segment, &v, Some(initial))?.mu)
    }

    /// The output and state of a segment by itself, in f64.
    fn segment_truth(
        &self,
        config: &Config,
        segment: &Segment,
        v: &[f32],
        initial_state: Option<StateSlices<'_>>,
    ) -> Result<Output64, Error> {
        let shape = &self.case.shape;
        let one = Shape::new(1, segment.tokens.len() as u32, shape.heads)
            .with_key_heads(shape.key_heads)
            .with_value_heads(shape.value_heads);
        let rows = |tensor: Tensor, x: &[f32]| -> Result<Vec<f32>, Error> {
            let len = tensor.row_len(config, shape)? as usize;
            Ok(x[segment.tokens.start * len..segment.tokens.end * len].to_vec())
        };
        let heads = Heads::new(config, shape);
        let gathered = |of: Rows, (count, width): (u32, u32), x: &[f32]| -> Vec<f32> {
            let tokens = segment.tokens.clone();
            let begins =
                tokens.flat_map(|t| (0..count as usize).map(move |head| of.begin(t, head)));
            begins.flat_map(|begin| &x[begin..][..width as usize]).copied().collect()
        };
        let (key_dim, value_dim) = (config.key_dim, config.value_dim);
        let q = gathered(heads.q, (shape.heads, key_dim), &self.sample.q);
        let k = gathered(heads.k, (shape.key_heads, key_dim), &self.sample.k);
        let v = gathered(heads.v, (shape.value_heads, value_dim), v);
        let inputs = self.sample.inputs();
        let decay = match inputs.decay {
            Some(decay) if !config.has_constant_decay() => Some(rows(Tensor::Decay, decay)?),
            decay => decay.map(<[f32]>::to_vec),
        };
        let beta = inputs.beta.map(|beta| rows(Tensor::Beta, beta)).transpose()?;
        let inputs = Inputs {
            q: &q,
            k: &k,
            v: &v,
            decay: decay.as_deref(),
            beta: beta.as_deref(),
            initial_state,
            ..inputs
        };
        reference::recurrent(config, &one, inputs)
    }

    /// The state before each segment in f64, from the states of segments in f32.
    pub(super) fn scan_truth(&self, segments: &[Segment], added: &[f32]) -> Vec<f64> {
        let len = self.state_len();
        let sequences = self.known.shape().sequences() as usize;
        let initial = self.sample.initial_state.as_ref();
        let initial = initial.map(|(mu, nu)| state::join(sequences, mu, nu));
        let kept = Kept::new(&self.case.config, &self.case.shape, self.sample.inputs());
        let transitions = match self.plan.has_transitions() {
            true => reference::segment_transition(&self.plan, self.sample.inputs()),
            false => Vec::new(),
        };
        let mut sum = vec![0.0; len];
        let mut truth = Vec::with_capacity(segments.len() * len);
        let mut current = usize::MAX;
        for segment in segments {
            if segment.n != current {
                current = segment.n;
                let begin = |i| initial.as_ref().map_or(0.0, |x| f64::from(x[current * len + i]));
                sum = (0..len).map(begin).collect();
            }
            truth.extend_from_slice(&sum);
            let added = self.state(added, segment.number);
            if self.plan.has_transitions() {
                sum = self.product_truth(segment.number, &transitions, &sum);
            }
            for (i, (sum, added)) in sum.iter_mut().zip(added).enumerate() {
                if !self.plan.has_transitions() {
                    *sum *= kept.of_element(i, segment.tokens.clone());
                }
                *sum += f64::from(*added);
            }
        }
        truth
    }
}

impl Run<'_> {
    /// The matrices of a segment in f32, times the state before it in f64.
    fn product_truth(&self, segment: usize, transitions: &[f32], before: &[f64]) -> Vec<f64> {
        let config = &self.case.config;
        let (features, value_dim) = (config.features() as usize, config.value_dim as usize);
        let heads = self.case.shape.value_heads as usize;
        let element = |i: usize| {
            let (row, column) = (i / value_dim, i % value_dim);
            let e = row / features;
            let row = (segment * heads * features + row) * features;
            let of = |j: usize| {
                let x = before[(e * features + j) * value_dim + column];
                f64::from(transitions[row + j]) * x
            };
            (0..features).map(of).sum()
        };
        (0..before.len()).map(element).collect()
    }
}

//! A problem of the harness, and its inputs.

use crate::plan::MAX_DECODE_LEN;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::projection::Projection;
use crate::problem::feature_map::random::Random;
use crate::problem::feature_map::weights::{WeightHeads, Weights};
use crate::problem::io::{GateWeights, Inputs, elements};
use crate::problem::shape::{Lens, PackedLimits, Shape};
use crate::problem::state::StateSlices;
use crate::problem::tensor::Tensor;
use crate::problem::update_rule::{Beta, BetaActivation, UpdateRule};

/// One problem of the harness.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Case {
    /// A readable id, which a filter and a failure name.
    pub name: &'static str,
    /// The config that is compiled.
    pub config: Config,
    /// The shape of the call.
    pub shape: Shape,
    /// True if the call reads an initial state.
    pub initial_state: bool,
    /// Segments of the longest sequence; 0 leaves the segmentation to the plan.
    pub segments: u32,
    /// The source of the sequence metadata.
    pub source: SequenceSource,
    /// The heads that have weights of their own.
    pub weights: WeightHeads,
    /// The kind of values that are sampled.
    pub sampling: Sampling,
    /// True for a case of the backward pass.
    pub is_backward: bool,
    /// True if the recurrence computes it where sums would.
    pub is_recurrence: bool,
}

/// The kind of values that a case samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sampling {
    /// Normal ones; decays around -1/2.
    #[default]
    Ordinary,
    /// Decays whose sum over a chunk is around -2000.
    StrongDecays,
    /// Decays around -8: exponentials that are small and have all their digits.
    SmallFactors,
    /// Decays that are -inf at every seventh token.
    Forgets,
    /// Decays around -1e-4, whose exponentials have lost most digits.
    SlowDecays,
    /// Keys that are nearly alike.
    CorrelatedKeys,
}

/// The source of a call's sequence metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceSource {
    /// The host has all of it; states are `[N,..]`.
    Host,
    /// The host has the lengths, a buffer the slots of a pool.
    Slots,
    /// A buffer with unused entries has the lengths; states are `[N,..]`.
    Lengths,
    /// A buffer has lengths and slots.
    LengthsAndSlots,
}

impl Case {
    /// Without an initial state, metadata on the host, with the plan's own segmentation.
    pub(crate) fn new(name: &'static str, config: Config, shape: Shape) -> Self {
        let (initial_state, segments, source) = (false, 0, SequenceSource::Host);
        // Weights that all heads share, where a map has any.
        let weights = WeightHeads::new(u32::from(config.needs_weights()), 0);
        let sampling = Sampling::default();
        let (is_backward, is_recurrence) = (false, false);
        Self {
            name,
            config,
            shape,
            initial_state,
            segments,
            source,
            weights,
            sampling,
            is_backward,
            is_recurrence,
        }
    }

    /// The subject of the case: a row of a conformance matrix.
    #[must_use]
    pub fn group(&self) -> &'static str {
        let config = &self.config;
        let is_early =
            matches!(config.feature_map, FeatureMap::Identity | FeatureMap::Relu | FeatureMap::Elu);
        if self.is_backward {
            "backward"
        } else if config.update_rule != UpdateRule::Linear {
            config.update_rule.name()
        } else if config.dtype != Dtype::F32 {
            "16 bits"
        } else if config.features() > 256 {
            "feature blocks"
        } else if !is_early || config.query_feature_map.is_some() || config.l2_norm {
            "feature maps"
        } else if self.shape.max_len() <= MAX_DECODE_LEN {
            "decoding"
        } else if self.shape.has_lengths() || self.source != SequenceSource::Host {
            "packed and pooled"
        } else {
            "prompts"
        }
    }

    /// Sets the tuning so that the plan has the segments that the case asks for.
    pub(crate) fn set_segments(&self, tuning: &mut Tuning) {
        if self.segments > 0 {
            tuning.min_segment_len = u32::MAX;
            tuning.max_segment_len = self.shape.max_len().div_ceil(self.segments);
            tuning.max_delta_segment_len = tuning.max_segment_len;
        }
    }

    /// The shape with every length known, and its states where the device has them.
    pub(crate) fn known_shape(&self) -> Shape {
        match self.source {
            SequenceSource::Host | SequenceSource::Lengths => self.shape.clone(),
            SequenceSource::Slots | SequenceSource::LengthsAndSlots => {
                self.shape.clone().with_slots(self.shape.sequences() + 3)
            }
        }
    }

    /// The shape of the plan that the device runs.
    pub(crate) fn device_shape(&self) -> Shape {
        let known = self.known_shape();
        if matches!(self.source, SequenceSource::Host | SequenceSource::Slots) {
            return known;
        }
        let (sequences, tokens) = (known.sequences() + 2, known.seq_len + 5);
        let mut shape = Shape::packed_up_to(
            PackedLimits { sequences, tokens, max_len: known.max_len() },
            known.heads,
        )
        .with_key_heads(known.key_heads)
        .with_value_heads(known.value_heads);
        shape.slots = known.slots.map(|slots| slots + 2);
        shape
    }

    /// Inputs of the case, the same for the same seed.
    pub(crate) fn sample(&self, seed: u64, lens: &Lens) -> Sample {
        // FNV-1a of the name, so that no two cases have equal values.
        let hash = self.name.bytes().fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let mut random = Random::new(seed ^ hash);
        let mut sample = |len: u64| (0..len).map(|_| normal(&mut random)).collect::<Vec<f32>>();
        let mut stored = |len: u64| -> Vec<f32> {
            sample(len).iter().map(|x| self.config.dtype.round(*x)).collect()
        };
        let (mut q, mut k, mut v) = (stored(lens.q), stored(lens.k), stored(lens.v));
        self.shape_keys(&mut k);
        let mut decay = self.decays(lens, &sample(lens.decay));
        // Sigmoids of normal values, or values like those.
        let has_activation = |beta: Beta| beta.activation != BetaActivation::None;
        let is_raw = self.config.update_rule.beta().is_some_and(has_activation);
        let in_unit = |x: f32| if is_raw { x } else { (x / 12.0 + 0.5).clamp(0.0, 1.0) };
        let mut beta: Vec<f32> = sample(lens.beta).into_iter().map(in_unit).collect();
        let gate_weights = sample(lens.gate_weights);
        // nu is a sum of features, which are positive for most maps that are normalised. A sampled
        // one is not: where features may be negative it may meet a query with a product near 0, and
        // the tokens must outweigh it.
        let maps = [self.config.key_map(), self.config.query_map()];
        let weight = match maps.iter().all(|map| map.has_non_negative_features()) {
            true => 1.0,
            false => (self.config.features() as f32).recip(),
        };
        let initial_state = self.initial_state.then(|| {
            let nu = sample(lens.nu).iter().map(|x| weight * (x.abs() + 0.5)).collect();
            (sample(lens.mu), nu)
        });
        let weights = self.config.needs_weights().then(|| self.sample_weights(&mut random));
        let rule = self.config.update_rule;
        let value_heads = self.shape.value_heads as usize;
        for (tensor, data) in [
            (Tensor::Q, &mut q),
            (Tensor::K, &mut k),
            (Tensor::V, &mut v),
            (Tensor::Decay, &mut decay),
            (Tensor::Beta, &mut beta),
        ] {
            self.poison_the_rest(tensor, data);
        }
        Sample { q, k, v, decay, beta, gate_weights, rule, value_heads, initial_state, weights }
    }

    /// Padding and what lies between rows, which no call may read.
    fn poison_the_rest(&self, tensor: Tensor, data: &mut [f32]) {
        let mut poisoned = vec![f32::NAN; data.len()];
        for elements in elements(&self.config, &self.shape, tensor, data.len()) {
            poisoned[elements.clone()].copy_from_slice(&data[elements]);
        }
        data.copy_from_slice(&poisoned);
    }

    /// Keys of a delta rule have the norm 1, or the rule diverges; alike ones a common part.
    fn shape_keys(&self, k: &mut [f32]) {
        let key_dim = self.config.key_dim as usize;
        let is_delta = self.config.update_rule.beta().is_some() && !self.config.l2_norm;
        for elements in elements(&self.config, &self.shape, Tensor::K, k.len()) {
            self.shape_key_rows(&mut k[elements], key_dim, is_delta);
        }
    }

    fn shape_key_rows(&self, k: &mut [f32], key_dim: usize, is_delta: bool) {
        for row in k.chunks_mut(key_dim) {
            if self.sampling == Sampling::CorrelatedKeys {
                row.iter_mut().enumerate().for_each(|(i, x)| *x = 0.3 * *x + (i as f32).cos());
            }
            if is_delta {
                let norm = row.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-3);
                row.iter_mut().for_each(|x| *x = self.config.dtype.round(*x / norm));
            }
        }
    }

    /// Decays from normal values.
    fn decays(&self, lens: &Lens, normal: &[f32]) -> Vec<f32> {
        if self.config.update_rule.needs_gate_weights() {
            return normal.to_vec();
        }
        let per_token = lens.decay as usize / (self.shape.seq_len.max(1) as usize);
        let decay = |(i, x): (usize, &f32)| match self.sampling {
            Sampling::Ordinary | Sampling::CorrelatedKeys => -0.5 * x.abs(),
            Sampling::StrongDecays => -250.0 * x.abs(),
            Sampling::SmallFactors => -8.0 - x,
            Sampling::SlowDecays => -1e-4 * x.abs(),
            Sampling::Forgets if i / per_token.max(1) % 7 == 3 => f32::NEG_INFINITY,
            Sampling::Forgets => -0.1 * x.abs(),
        };
        normal.iter().enumerate().map(decay).collect()
    }

    /// Random weights for random maps; for others normal ones, scaled so that projections are as
    /// large as the rows, and a bias.
    fn sample_weights(&self, random: &mut Random) -> Weights {
        let key_dim = self.config.key_dim;
        let mut projection = |map: &FeatureMap, heads: u32| {
            let projections = map.projections(key_dim);
            let rows = heads as usize * projections as usize;
            if rows == 0 {
                return None;
            }
            let (weight, bias) = if map.is_random() {
                (random.orthogonal(rows, key_dim as usize), None)
            } else {
                let scale = (key_dim as f32).sqrt().recip();
                let mut sample = |len, scale: f32| -> Vec<f32> {
                    (0..len).map(|_| scale * normal(random)).collect()
                };
                (sample(rows * key_dim as usize, scale), Some(sample(rows, 0.5)))
            };
            Projection::new(heads, projections, key_dim, &weight, bias.as_deref()).ok()
        };
        let keys = projection(self.config.key_map(), self.weights.keys);
        let queries = projection(self.config.query_map(), self.weights.queries);
        Weights::apart(keys, queries)
    }
}

/// The inputs of a case.
#[derive(Clone)]
pub(crate) struct Sample {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) decay: Vec<f32>,
    pub(crate) beta: Vec<f32>,
    pub(crate) gate_weights: Vec<f32>,
    rule: UpdateRule,
    value_heads: usize,
    pub(crate) initial_state: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) weights: Option<Weights>,
}

impl Sample {
    pub(crate) fn inputs(&self) -> Inputs<'_> {
        let initial_state = self.initial_state.as_ref().map(|(mu, nu)| StateSlices { mu, nu });
        let weights = self.weights.as_ref();
        let (a_log, dt_bias) =
            self.gate_weights.split_at(self.value_heads.min(self.gate_weights.len()));
        Inputs {
            decay: self.rule.decay().map(|_| &self.decay[..]),
            beta: self.rule.beta().map(|_| &self.beta[..]),
            gate_weights: self.rule.needs_gate_weights().then_some(GateWeights { a_log, dt_bias }),
            initial_state,
            weights,
            ..Inputs::new(&self.q, &self.k, &self.v)
        }
    }
}

/// Twelve uniform numbers minus six: near enough to normal, and within ±6.
fn normal(random: &mut Random) -> f32 {
    (0..12).map(|_| random.uniform()).sum::<f32>() - 6.0
}

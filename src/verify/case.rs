//! A problem of the harness, and its inputs.

use crate::plan::MAX_DECODE_LEN;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::projection::Projection;
use crate::problem::feature_map::random::Random;
use crate::problem::feature_map::weights::{WeightHeads, Weights};
use crate::problem::io::Inputs;
use crate::problem::shape::{Lens, PackedLimits, Shape};
use crate::problem::state::StateSlices;

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
        Self { name, config, shape, initial_state, segments, source, weights }
    }

    /// The subject of the case: a row of a conformance matrix.
    #[must_use]
    pub fn group(&self) -> &'static str {
        let config = &self.config;
        let is_early =
            matches!(config.feature_map, FeatureMap::Identity | FeatureMap::Relu | FeatureMap::Elu);
        if config.dtype != Dtype::F32 {
            "16 bits"
        } else if config.features() > 256 {
            "F in blocks"
        } else if !is_early || config.query_feature_map.is_some() || config.l2_norm {
            "feature maps"
        } else if self.shape.max_len() <= MAX_DECODE_LEN {
            "steps and short runs"
        } else if self.shape.is_packed() || self.source != SequenceSource::Host {
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
        let (q, k, v) = (stored(lens.q), stored(lens.k), stored(lens.v));
        // nu is a sum of features, which are positive for the maps that are normalised.
        let initial_state = self.initial_state.then(|| {
            let nu = sample(lens.nu).iter().map(|x| x.abs() + 0.5).collect();
            (sample(lens.mu), nu)
        });
        let weights = self.config.needs_weights().then(|| self.sample_weights(&mut random));
        Sample { q, k, v, initial_state, weights }
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
pub(crate) struct Sample {
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) initial_state: Option<(Vec<f32>, Vec<f32>)>,
    pub(crate) weights: Option<Weights>,
}

impl Sample {
    pub(crate) fn inputs(&self) -> Inputs<'_> {
        let initial_state = self.initial_state.as_ref().map(|(mu, nu)| StateSlices { mu, nu });
        let weights = self.weights.as_ref();
        Inputs { q: &self.q, k: &self.k, v: &self.v, initial_state, weights }
    }
}

/// Twelve uniform numbers minus six: near enough to normal, and within ±6.
fn normal(random: &mut Random) -> f32 {
    (0..12).map(|_| random.uniform()).sum::<f32>() - 6.0
}

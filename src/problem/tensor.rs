//! The table of tensors: name, dimensions, element type and access of each.

use crate::error::PlanError;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::weights::WeightHeads;
use crate::problem::shape::Shape;
use crate::problem::update_rule::BetaDims;

/// A tensor of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Tensor {
    Q,
    K,
    V,
    O,
    Decay,
    Beta,
    /// `A_log` and `dt_bias` of the decays.
    GateWeights,
    /// The accumulated key-value state, as slices have it.
    Mu,
    /// The accumulated key state, as slices have it; empty where nothing is divided.
    Nu,
    InitialState,
    FinalState,
    Pool,
    Sequences,
    Weights,
    KeyStatus,
}

/// The type of a tensor's elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ElementType {
    /// [`Config::dtype`].
    OfConfig,
    /// That of the update rule's [`Decay`](crate::update_rule::Decay).
    OfDecay,
    /// That of its [`Beta`](crate::update_rule::Beta).
    OfBeta,
    F32,
    U32,
}

/// The access of a call to a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write,
    ReadWrite,
}

impl Tensor {
    /// The tensors that have a row for each token, unless decays are constant.
    pub(crate) const PER_TOKEN: [Tensor; 6] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Decay, Self::Beta];

    #[cfg(test)]
    pub(crate) const ALL: [Tensor; 15] = [
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Decay,
        Self::Beta,
        Self::GateWeights,
        Self::Mu,
        Self::Nu,
        Self::InitialState,
        Self::FinalState,
        Self::Pool,
        Self::Sequences,
        Self::Weights,
        Self::KeyStatus,
    ];

    /// The name of the field of [`Tensors`](crate::Tensors) or [`Output`](crate::Output), in errors
    /// as well.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Q => "q",
            Self::K => "k",
            Self::V => "v",
            Self::O => "o",
            Self::Decay => "decay",
            Self::Beta => "beta",
            Self::GateWeights => "gate_weights",
            Self::Mu => "mu",
            Self::Nu => "nu",
            Self::InitialState => "initial_state",
            Self::FinalState => "final_state",
            Self::Pool => "pool",
            Self::Sequences => "sequences",
            Self::Weights => "weights",
            Self::KeyStatus => "key_status",
        }
    }

    /// The dimensions as letters. `state` is the state of one sequence: mu `[E,F,V]`, then nu
    /// `[E,F]` where o is normalised.
    pub(crate) const fn dims(self) -> &'static [&'static str] {
        match self {
            Self::Q => &["B", "T", "H", "K"],
            Self::K => &["B", "T", "G", "K"],
            Self::V => &["B", "T", "E", "V"],
            Self::O => &["B", "T", "max(H,E)", "V"],
            Self::Decay => &["tokens", "E", "rows"],
            Self::Beta => &["B", "T", "E or 1"],
            Self::GateWeights => &["E + E rows"],
            Self::Mu => &["N", "E", "F", "V"],
            Self::Nu => &["N", "E", "F"],
            Self::InitialState | Self::FinalState => &["N", "state"],
            Self::Pool => &["slots", "state"],
            Self::Sequences => &["1 + (N+1) + N + N + 2 N C"],
            Self::Weights => &["heads", "W and b"],
            Self::KeyStatus => &["1"],
        }
    }

    pub(crate) const fn element_type(self) -> ElementType {
        match self {
            Self::Q | Self::K | Self::V | Self::O => ElementType::OfConfig,
            Self::Decay => ElementType::OfDecay,
            Self::Beta => ElementType::OfBeta,
            Self::Sequences | Self::KeyStatus => ElementType::U32,
            _ => ElementType::F32,
        }
    }

    pub(crate) const fn access(self) -> Access {
        match self {
            Self::O | Self::FinalState => Access::Write,
            // The shaders count the entries that they ignore in the status, the first word of
            // `sequences`.
            Self::Mu | Self::Nu | Self::Pool | Self::Sequences | Self::KeyStatus => {
                Access::ReadWrite
            }
            _ => Access::Read,
        }
    }

    /// Elements, 0 where the call has no such tensor. Of weights it is the least that a call
    /// accepts, with weights that all heads share: [`WeightHeads::size`] knows those of more heads.
    ///
    /// # Errors
    ///
    /// [`PlanError::TooManyElements`] where 32 bits cannot index them.
    pub(crate) fn len(self, config: &Config, shape: &Shape) -> Result<u64, PlanError> {
        match self {
            Self::Nu if !config.is_normalized() => return Ok(0),
            Self::Decay if config.update_rule.decay().is_none() => return Ok(0),
            Self::Beta if config.update_rule.beta().is_none() => return Ok(0),
            Self::GateWeights if !config.update_rule.needs_gate_weights() => return Ok(0),
            Self::Pool if shape.slots.is_none() => return Ok(0),
            Self::Sequences => {
                let (what, actual) = (self.name(), sequences_len(shape));
                return match u32::try_from(actual) {
                    Ok(_) => Ok(actual),
                    Err(_) => Err(PlanError::TooManyElements { what, actual }),
                };
            }
            Self::Weights => return Ok(weights_len(config)),
            _ => {}
        }
        if let Some(len) = shape.strided_len(config, self) {
            let is_indexed = len <= u64::from(u32::MAX);
            let refused = PlanError::TooManyElements { what: self.name(), actual: len };
            return if is_indexed { Ok(len) } else { Err(refused) };
        }
        let sizes = self.dims().iter().map(|letter| size_of(letter, config, shape));
        elements(self.name(), &sizes.collect::<Result<Vec<u32>, PlanError>>()?)
    }

    /// Elements of one token in q, k, v, o, decay and beta.
    ///
    /// # Errors
    ///
    /// As [`Tensor::len`].
    pub(crate) fn row_len(self, config: &Config, shape: &Shape) -> Result<u64, PlanError> {
        let letters = self.dims().iter().filter(|letter| !matches!(**letter, "B" | "T" | "tokens"));
        let sizes = letters.map(|letter| size_of(letter, config, shape));
        elements(self.name(), &sizes.collect::<Result<Vec<u32>, PlanError>>()?)
    }

    /// Bytes that a binding must have: whole 32-bit words.
    ///
    /// # Errors
    ///
    /// As [`Tensor::len`].
    pub(crate) fn bytes(self, config: &Config, shape: &Shape) -> Result<u64, PlanError> {
        Ok(self.dtype(config).bytes(self.len(config, shape)?))
    }

    /// The type that elements are encoded in. Words of u32 are as wide as an f32.
    pub(crate) fn dtype(self, config: &Config) -> Dtype {
        match self.element_type() {
            ElementType::OfConfig => config.dtype,
            ElementType::OfDecay => config.update_rule.decay().map_or(Dtype::F32, |d| d.dtype),
            ElementType::OfBeta => config.update_rule.beta().map_or(Dtype::F32, |b| b.dtype),
            ElementType::F32 | ElementType::U32 => Dtype::F32,
        }
    }

    /// The tensor's row in the table of layouts in the documentation.
    #[cfg(test)]
    pub(crate) fn docs_row(self) -> String {
        let element_type = match self.element_type() {
            ElementType::OfConfig => "dtype",
            ElementType::OfDecay | ElementType::OfBeta => "f32 or dtype",
            ElementType::F32 => "f32",
            ElementType::U32 => "u32",
        };
        let access = match self.access() {
            Access::Read => "read",
            Access::Write => "written",
            Access::ReadWrite => "read, written",
        };
        format!("| {} | `[{}]` | {element_type} | {access} |", self.name(), self.dims().join(","))
    }
}

/// Elements of the state of one sequence: mu `[E,F,V]`, then nu `[E,F]` where o is normalised.
pub(crate) fn state_len(config: &Config, value_heads: u32) -> Result<u32, PlanError> {
    let width = config.value_dim.saturating_add(config.is_normalized().into());
    let len = elements("state", &[value_heads, config.features(), width])?;
    // `elements` refuses what 32 bits cannot index.
    Ok(len as u32)
}

/// The product of `sizes`, if 32 bits can index it.
pub(crate) fn elements(what: &'static str, sizes: &[u32]) -> Result<u64, PlanError> {
    let product = sizes.iter().try_fold(1u64, |product, size| product.checked_mul((*size).into()));
    match product {
        Some(n) if n <= u64::from(u32::MAX) => Ok(n),
        _ => Err(PlanError::TooManyElements { what, actual: product.unwrap_or(u64::MAX) }),
    }
}

fn size_of(letter: &str, config: &Config, shape: &Shape) -> Result<u32, PlanError> {
    Ok(match letter {
        "B" => shape.batch,
        "N" => shape.sequences(),
        "T" => shape.seq_len,
        "H" => shape.heads,
        "G" => shape.key_heads,
        "E" => shape.value_heads,
        "max(H,E)" => shape.output_heads(),
        "K" => config.key_dim,
        "F" => config.features(),
        "V" => config.value_dim,
        "tokens" if config.has_constant_decay() => 1,
        "tokens" => shape.batch.saturating_mul(shape.seq_len),
        "rows" => config.decay_rows(),
        "E or 1" => match config.update_rule.beta().map(|beta| beta.dims) {
            Some(BetaDims::Shared) => 1,
            _ => shape.value_heads,
        },
        "E + E rows" => shape.value_heads.saturating_mul(1 + config.decay_rows()),
        "slots" => shape.slots.unwrap_or(0),
        "1" => 1,
        _ => state_len(config, shape.value_heads)?,
    })
}

/// A status, then `cu_seqlens` where lengths differ, then a slot each where states are in a pool.
fn sequences_len(shape: &Shape) -> u64 {
    let n = u64::from(shape.entries());
    let lengths = if shape.has_lengths() { n + 1 } else { 0 };
    let slots = if shape.slots.is_some() { n } else { 0 };
    let sources = if shape.has_sources { n } else { 0 };
    // Any number of checkpoints is asked for; `Plan` refuses what no binding has room for.
    let checkpoints = (2 * n).saturating_mul(shape.checkpoints.into());
    let words = checkpoints.saturating_add(lengths + slots + sources);
    if words > 0 { words.saturating_add(1) } else { 0 }
}

fn weights_len(config: &Config) -> u64 {
    let needs = |map: &crate::problem::feature_map::FeatureMap| map.projections(config.key_dim) > 0;
    let keys = u32::from(needs(config.key_map()));
    // Queries have those of keys where they are of one size.
    let size = |map: &crate::problem::feature_map::FeatureMap| {
        (map.matrix_rows(config.key_dim), map.matrices())
    };
    let is_shared = keys > 0 && size(config.key_map()) == size(config.query_map());
    let queries = u32::from(needs(config.query_map()) && !is_shared);
    WeightHeads::new(keys, queries).size(config) / 4
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;
    use crate::problem::config::Normalization;
    use crate::problem::feature_map::FeatureMap;

    /// The table in the documentation is this one.
    #[test]
    fn the_documentation_has_every_row() {
        let docs = include_str!("../crate.md");
        for tensor in Tensor::ALL {
            let row = tensor.docs_row();
            assert!(docs.contains(&row), "no row {row} in src/crate.md");
        }
    }

    #[test]
    fn lens_and_bytes() {
        let mut config = Config::new(3, 5);
        config.dtype = Dtype::F16;
        let shape = Shape::packed(&[4, 0, 1], 2).with_key_heads(2).with_value_heads(4);
        let sizes = |tensor: Tensor, config: &Config, shape: &Shape| {
            [tensor.len(config, shape).unwrap(), tensor.bytes(config, shape).unwrap()]
        };
        assert_eq!(sizes(Tensor::Q, &config, &shape), [30, 60]);
        assert_eq!(sizes(Tensor::K, &config, &shape), [30, 60]);
        assert_eq!(sizes(Tensor::V, &config, &shape), [100, 200]);
        assert_eq!(sizes(Tensor::O, &config, &shape), [100, 200]);
        assert_eq!(sizes(Tensor::Mu, &config, &shape), [180, 720]);
        assert_eq!(sizes(Tensor::Nu, &config, &shape), [36, 144]);
        assert_eq!(sizes(Tensor::InitialState, &config, &shape), [216, 864]);
        assert_eq!(sizes(Tensor::Pool, &config, &shape), [0, 0]);
        assert_eq!(sizes(Tensor::Sequences, &config, &shape), [5, 20]);
        assert_eq!(sizes(Tensor::Weights, &config, &shape), [0, 0]);
        let row = |tensor: Tensor| tensor.row_len(&config, &shape).unwrap();
        // 2 query and key heads of 3, 4 value and output heads of 5.
        let rows = [Tensor::Q, Tensor::K, Tensor::V, Tensor::O].map(row);
        assert_eq!(rows, [6, 6, 20, 20]);
        let pooled = shape.clone().with_slots(7);
        assert_eq!(sizes(Tensor::Pool, &config, &pooled), [504, 2016]);
        assert_eq!(sizes(Tensor::Sequences, &config, &pooled), [8, 32]);
        // Nothing is divided, so there is no nu.
        config.normalization = Normalization::None;
        assert_eq!(sizes(Tensor::Nu, &config, &shape), [0, 0]);
        assert_eq!(sizes(Tensor::FinalState, &config, &shape), [180, 720]);
        // Whole words.
        assert_eq!(sizes(Tensor::Q, &config, &Shape::new(1, 1, 1)), [3, 8]);
        config.feature_map = FeatureMap::T2r { features: 5 };
        // [K' + 1, P'] = [4 + 1, 8]
        assert_eq!(sizes(Tensor::Weights, &config, &shape), [40, 160]);
    }
}

//! What is compiled: the part of a problem that pipelines are specialised on.

use crate::{ConfigError, Dtype};

/// Largest `key_dim` and `value_dim`.
pub const MAX_DIM: u32 = 256;

/// eps of the normalised form where none is given, as in fast-transformers.
pub const DEFAULT_EPS: f32 = 1e-6;

/// The feature map φ, applied to each element of q and k.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FeatureMap {
    /// φ(x) = x. Can be negative, so the normalised form must be asked for by name:
    /// see [`Normalization::SignedSum`].
    Identity,
    /// φ(x) = max(x, 0).
    Relu,
    /// φ(x) = x + 1 where x >= 0, exp(x) elsewhere; that is elu(x) + 1, formed without
    /// its cancellation. Katharopoulos et al., "Transformers are RNNs", 2020, eq. 7.
    #[default]
    Elu,
}

impl FeatureMap {
    /// Every map, in the order of their shader codes.
    pub const ALL: [FeatureMap; 3] = [Self::Identity, Self::Relu, Self::Elu];

    /// The map's name as the command line and the harness spell it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::Elu => "elu",
        }
    }

    /// The map called `name`, as [`FeatureMap::name`] spells it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|map| map.name() == name)
    }

    /// Whether φ(x) >= 0 for every x, so that the denominator is a sum of weights.
    #[must_use]
    pub fn is_non_negative(self) -> bool {
        !matches!(self, Self::Identity)
    }

    pub(crate) fn code(self) -> u32 {
        match self {
            Self::Identity => 0,
            Self::Relu => 1,
            Self::Elu => 2,
        }
    }
}

/// What the numerator s q' mu is divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Normalization {
    /// By nothing: `o = s q' mu`.
    None,
    /// By the sum of the weights: `o = s q' mu / (s q' . nu + eps)`. Refused for a
    /// [`FeatureMap`] that can be negative.
    Sum {
        /// Added to the denominator; finite, not negative.
        eps: f32,
    },
    /// The same quotient for a map that can be negative, where the denominator may cross
    /// zero and the quotient is then as large as rounding makes it.
    SignedSum {
        /// Added to the denominator; finite, not negative.
        eps: f32,
    },
}

impl Default for Normalization {
    fn default() -> Self {
        Self::Sum { eps: DEFAULT_EPS }
    }
}

impl Normalization {
    /// eps, or `None` where nothing is divided.
    #[must_use]
    pub fn eps(self) -> Option<f32> {
        match self {
            Self::None => None,
            Self::Sum { eps } | Self::SignedSum { eps } => Some(eps),
        }
    }
}

/// What pipelines are specialised on.
///
/// ```
/// use linear_attention::{Config, FeatureMap, Normalization};
///
/// let mut config = Config::new(64, 64); // elu + 1, normalised, eps = 1e-6, scale 1
/// config.feature_map = FeatureMap::Relu;
/// config.scale = 0.125;
/// assert_eq!(config.normalization, Normalization::Sum { eps: 1e-6 });
/// config.validate().unwrap();
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// K, the width of q and k: 1 to [`MAX_DIM`].
    pub key_dim: u32,
    /// V, the width of v and o: 1 to [`MAX_DIM`].
    pub value_dim: u32,
    /// φ.
    pub feature_map: FeatureMap,
    /// Whether and by what the output is divided.
    pub normalization: Normalization,
    /// s, which multiplies q' before anything else; finite.
    pub scale: f32,
    /// How q, k, v and o are stored.
    pub dtype: Dtype,
}

impl Config {
    /// elu + 1, normalised with eps = 1e-6, scale 1, f32.
    #[must_use]
    pub fn new(key_dim: u32, value_dim: u32) -> Self {
        Self {
            key_dim,
            value_dim,
            feature_map: FeatureMap::default(),
            normalization: Normalization::default(),
            scale: 1.0,
            dtype: Dtype::default(),
        }
    }

    /// Whether a pipeline can be made of it.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (what, actual) in [("key_dim", self.key_dim), ("value_dim", self.value_dim)] {
            if !(1..=MAX_DIM).contains(&actual) {
                return Err(ConfigError::Dim { what, actual });
            }
        }
        if !self.scale.is_finite() {
            return Err(ConfigError::Scale { actual: self.scale.to_string() });
        }
        if let Some(eps) = self.normalization.eps()
            && !(eps.is_finite() && eps >= 0.0)
        {
            return Err(ConfigError::Eps { actual: eps.to_string() });
        }
        if matches!(self.normalization, Normalization::Sum { .. })
            && !self.feature_map.is_non_negative()
        {
            return Err(ConfigError::SignedSum { feature_map: self.feature_map.name() });
        }
        Ok(())
    }

    /// Whether tensors are read sixteen bytes at a time.
    pub(crate) fn is_quads(&self) -> bool {
        self.key_dim.is_multiple_of(4) && self.value_dim.is_multiple_of(4)
    }
}

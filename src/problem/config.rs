//! The part of a problem for which pipelines are specialised.

use crate::error::ConfigError;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::{DecayDims, UpdateRule};

/// Largest `key_dim`: a row of k must fit into a workgroup's memory.
pub const MAX_KEY_DIM: u32 = 1024;
/// Largest `value_dim`.
pub const MAX_VALUE_DIM: u32 = 4096;

/// Most features with a delta rule: what a key recalls is a sum over all of them, within a
/// workgroup.
const MAX_DELTA_FEATURES: u32 = 256;

/// The denominator by which the numerator s q' mu is divided.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Normalization {
    /// None: `o = s q' mu`.
    None,
    /// The sum of the weights: `o = s q' mu / (s q' . nu + eps)`. Refused where
    /// [`Config::is_non_negative`] is false.
    ///
    /// With eps = 0, the default, o is an average of the values seen, whatever the size of the
    /// weights: a factor common to all features of a query cancels before it can overflow or
    /// vanish, and so does s. A row whose weights are all zero is 0.
    Sum {
        /// Added to the denominator in f32; finite, not negative.
        eps: f32,
    },
    /// The same quotient for weights that can be negative, where the denominator may cross
    /// zero and the quotient is then as large as rounding makes it.
    SignedSum {
        /// Added to the denominator; finite, not negative.
        eps: f32,
    },
}

impl Default for Normalization {
    fn default() -> Self {
        Self::Sum { eps: 0.0 }
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

/// The form of decays and betas in the shaders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gating {
    PerHead,
    PerRow,
}

/// The part of a problem for which pipelines are specialised.
///
/// ```
/// use linear_attention::{Config, FeatureMap, Normalization};
///
/// // elu + 1, normalised, eps = 0, scale 1
/// let config = Config::new(64, 64);
/// assert_eq!(config.normalization, Normalization::Sum { eps: 0.0 });
/// config.with_feature_map(FeatureMap::Relu).with_scale(0.125).validate().unwrap();
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Config {
    /// K, the width of q and k: 1 to [`MAX_KEY_DIM`].
    pub key_dim: u32,
    /// V, the width of v and o: 1 to [`MAX_VALUE_DIM`].
    pub value_dim: u32,
    /// The rule by which a token changes the state.
    pub update_rule: UpdateRule,
    /// φ, of keys and, unless `query_feature_map` says otherwise, of queries.
    pub feature_map: FeatureMap,
    /// Another φ for queries, of as many features.
    pub query_feature_map: Option<FeatureMap>,
    /// True divides rows of q and k by their L2 norms before φ:
    /// x / (Σ x_i² + 1e-6)^(1/2), with flash-linear-attention's eps.
    pub l2_norm: bool,
    /// The denominator of the output.
    pub normalization: Normalization,
    /// s, which multiplies q' before anything else; finite.
    pub scale: f32,
    /// The element type of q, k, v and o.
    pub dtype: Dtype,
}

impl Config {
    /// The rule linear with elu + 1, normalised with eps = 0, scale 1, f32.
    #[must_use]
    pub fn new(key_dim: u32, value_dim: u32) -> Self {
        Self {
            key_dim,
            value_dim,
            update_rule: UpdateRule::default(),
            feature_map: FeatureMap::default(),
            query_feature_map: None,
            l2_norm: false,
            normalization: Normalization::default(),
            scale: 1.0,
            dtype: Dtype::default(),
        }
    }

    /// A rule with the φ and the denominator that it usually has: elu + 1, normalised with eps = 0,
    /// for linear; identity, not normalised, for the others. Scale 1, f32.
    ///
    /// ```
    /// use linear_attention::update_rule::{Beta, Decay, UpdateRule};
    /// use linear_attention::{Config, FeatureMap, Normalization};
    ///
    /// let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
    /// let config = Config::of_rule(128, 128, rule).with_scale(128f32.powf(-0.5));
    /// assert_eq!(config.feature_map, FeatureMap::Identity);
    /// assert_eq!(config.normalization, Normalization::None);
    /// config.validate().unwrap();
    /// ```
    #[must_use]
    pub fn of_rule(key_dim: u32, value_dim: u32, update_rule: UpdateRule) -> Self {
        let config = Self { update_rule, ..Self::new(key_dim, value_dim) };
        match update_rule {
            UpdateRule::Linear => config,
            _ => Self {
                feature_map: FeatureMap::Identity,
                normalization: Normalization::None,
                ..config
            },
        }
    }

    /// With another update rule, and all else as it was.
    #[must_use]
    pub fn with_update_rule(self, update_rule: UpdateRule) -> Self {
        Self { update_rule, ..self }
    }

    /// With another φ, of keys and, unless [`Config::with_query_feature_map`] says otherwise, of
    /// queries.
    #[must_use]
    pub fn with_feature_map(self, feature_map: FeatureMap) -> Self {
        Self { feature_map, ..self }
    }

    /// With a φ of queries that is not that of keys.
    #[must_use]
    pub fn with_query_feature_map(self, feature_map: FeatureMap) -> Self {
        Self { query_feature_map: Some(feature_map), ..self }
    }

    /// With or without division of rows by their L2 norms before φ.
    #[must_use]
    pub fn with_l2_norm(self, l2_norm: bool) -> Self {
        Self { l2_norm, ..self }
    }

    /// With another denominator.
    #[must_use]
    pub fn with_normalization(self, normalization: Normalization) -> Self {
        Self { normalization, ..self }
    }

    /// With another scale s.
    #[must_use]
    pub fn with_scale(self, scale: f32) -> Self {
        Self { scale, ..self }
    }

    /// With another element type of q, k, v and o.
    #[must_use]
    pub fn with_dtype(self, dtype: Dtype) -> Self {
        Self { dtype, ..self }
    }

    /// Checks that every field is in range and that the maps go together.
    ///
    /// # Errors
    ///
    /// Names the first field that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (what, required, actual) in
            [("key_dim", MAX_KEY_DIM, self.key_dim), ("value_dim", MAX_VALUE_DIM, self.value_dim)]
        {
            if !(1..=required).contains(&actual) {
                return Err(ConfigError::Dim { what, required, actual });
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
        self.key_map().validate(self.key_dim)?;
        self.query_map().validate(self.key_dim)?;
        let own: Vec<_> = self.custom_maps().collect();
        if let [keys, queries] = own[..]
            && keys != queries
        {
            return Err(ConfigError::TwoCustomMaps {
                keys: keys.name().to_owned(),
                queries: queries.name().to_owned(),
            });
        }
        let (required, actual) = (self.features(), self.query_map().features(self.key_dim));
        if required != actual {
            return Err(ConfigError::FeatureMap {
                feature_map: self.query_map().name().to_owned(),
                what: "features",
                required: format!("the {required} of the keys' map {}", self.key_map()),
                actual,
            });
        }
        self.check_rule()?;
        if matches!(self.normalization, Normalization::Sum { .. }) && !self.is_non_negative() {
            let is_negative = |map: &&FeatureMap| !map.has_non_negative_features();
            let map = Some(self.key_map()).filter(is_negative).unwrap_or(self.query_map());
            return Err(ConfigError::SignedSum { feature_map: map.to_string() });
        }
        Ok(())
    }

    /// Refuses an update rule that does not go with the maps and the denominator.
    fn check_rule(&self) -> Result<(), ConfigError> {
        self.update_rule.check(self.dtype)?;
        if self.update_rule.beta().is_none() {
            return Ok(());
        }
        let refuse = |what, required: &str, actual: String| {
            let (rule, required) = (self.update_rule.name(), required.to_owned());
            Err(ConfigError::UpdateRule { rule, what, required, actual })
        };
        if self.is_normalized() {
            // A corrected value has no weight of its own that a sum could divide by.
            return refuse("normalization", "None", format!("{:?}", self.normalization));
        }
        if self.features() > MAX_DELTA_FEATURES {
            return refuse("features", "at most 256", self.features().to_string());
        }
        Ok(())
    }

    /// φ of keys.
    #[must_use]
    pub fn key_map(&self) -> &FeatureMap {
        &self.feature_map
    }

    /// φ of queries.
    #[must_use]
    pub fn query_map(&self) -> &FeatureMap {
        self.query_feature_map.as_ref().unwrap_or(&self.feature_map)
    }

    /// F.
    #[must_use]
    pub fn features(&self) -> u32 {
        self.key_map().features(self.key_dim)
    }

    /// True where queries have a row scale: where a quotient cancels it, and for
    /// [`FeatureMap::Exp`], whose row of o takes it back.
    pub(crate) fn scales_queries(&self) -> bool {
        self.is_normalized() || *self.query_map() == FeatureMap::Exp
    }

    /// True if o is divided by a sum of attention weights, for which a state has a nu.
    #[must_use]
    pub fn is_normalized(&self) -> bool {
        self.normalization.eps().is_some()
    }

    /// True if no attention weight φ(q) . φ(k) can be negative.
    #[must_use]
    pub fn is_non_negative(&self) -> bool {
        let (keys, queries) = (self.key_map(), self.query_map());
        (keys == queries && keys.is_non_negative())
            || (keys.has_non_negative_features() && queries.has_non_negative_features())
    }

    /// True if feature f is a function of element f of the row alone, apart from the row max that
    /// [`FeatureMap::Exp`] subtracts from a query.
    pub(crate) fn is_element_wise(&self) -> bool {
        self.key_map().is_element_wise() && self.query_map().is_element_wise() && !self.l2_norm
    }

    /// True if a map has projections, for which a call needs weights.
    #[must_use]
    pub fn needs_weights(&self) -> bool {
        [self.key_map(), self.query_map()].into_iter().any(|map| map.projections(self.key_dim) > 0)
    }

    /// The caller's own maps.
    pub(crate) fn custom_maps(
        &self,
    ) -> impl Iterator<Item = &crate::problem::feature_map::custom::CustomMap> {
        [self.key_map(), self.query_map()].into_iter().filter_map(|map| match map {
            FeatureMap::Custom(map) => Some(&**map),
            _ => None,
        })
    }

    /// The form in which shaders have decays and betas; `None` where the rule has neither.
    pub(crate) fn gates(&self) -> Option<Gating> {
        match self.update_rule.decay().map(|decay| decay.dims) {
            Some(DecayDims::PerRow) => Some(Gating::PerRow),
            None if self.update_rule.beta().is_none() => None,
            _ => Some(Gating::PerHead),
        }
    }

    /// True if the decays are the same for all tokens.
    pub(crate) fn has_constant_decay(&self) -> bool {
        self.update_rule.decay().is_some_and(|decay| decay.dims == DecayDims::Constant)
    }

    /// True if a segment multiplies the state before it by its decays; a delta rule does by a
    /// matrix.
    pub(crate) fn has_segment_decays(&self) -> bool {
        self.decay_rows() > 0 && self.update_rule.beta().is_none()
    }

    /// Decays of a token and value head in the shaders: 0, 1, or F.
    pub(crate) fn decay_rows(&self) -> u32 {
        match self.update_rule.decay().map(|decay| decay.dims) {
            None => 0,
            Some(DecayDims::Constant | DecayDims::PerHead) => 1,
            Some(DecayDims::PerRow) => self.features(),
        }
    }

    /// Elements of a token and value head in what `token_gates` writes: a decay and a beta, or the
    /// vec4s of the decays of all rows and one for beta.
    pub(crate) fn gate_row(&self) -> u32 {
        match self.gates() {
            None => 0,
            Some(Gating::PerHead) => 2,
            Some(Gating::PerRow) => self.features().next_multiple_of(4) + 4,
        }
    }

    /// True if tensors and states are vec4-aligned.
    pub(crate) fn is_vec4(&self) -> bool {
        [self.key_dim, self.value_dim, self.features()].into_iter().all(|n| n.is_multiple_of(4))
    }
}

//! The feature maps: their formulas, widths and weights.

pub(crate) mod custom;
#[cfg(not(target_arch = "wasm32"))]
mod custom_check;
pub(crate) mod dual;
pub(crate) mod phi;
pub(crate) mod projection;
pub(crate) mod random;
pub(crate) mod real;
pub(crate) mod weights;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::error::ConfigError;
use crate::problem::feature_map::custom::CustomMap;

/// Most features: F.
pub const MAX_FEATURES: u32 = 1 << 16;

/// Most projections of a map of the caller's own.
const MAX_PROJECTIONS: u32 = 256;

/// The feature map φ, from the K elements of a row of q or k to its F features.
///
/// x is the row, d = K its width, and x̂ = x / d^(1/4), so that x̂ . ŷ = x . y / √d is what softmax
/// attention exponentiates. y = W x + b are the projections of a row through
/// [`Weights`](crate::feature_map::Weights). No map looks at another row.
///
/// | map | φ(x) | F | source |
/// | --- | --- | --- | --- |
/// | [`Identity`](Self::Identity) | x | d | |
/// | [`Relu`](Self::Relu) | max(x, 0) | d | |
/// | [`ReluSquared`](Self::ReluSquared) | max(x, 0)² | d | |
/// | [`Elu`](Self::Elu) | x + 1 where x >= 0, e^x elsewhere | d | Katharopoulos et al., "Transformers are RNNs", 2020, eq. 7 |
/// | [`Exp`](Self::Exp) | e^x | d | |
/// | [`Silu`](Self::Silu) | x / (1 + e^-x) | d | |
/// | [`Sigmoid`](Self::Sigmoid) | 1 / (1 + e^-x) | d | |
/// | [`Softmax`](Self::Softmax) | e^(x_f) / Σ_i e^(x_i) | d | Shen et al., "Efficient Attention", 2021 |
/// | [`T2r`](Self::T2r) | max(W x + b, 0) | any | Kasai et al., "Finetuning Pretrained Transformers into RNNs", 2021, eq. 3 |
/// | [`Hedgehog`](Self::Hedgehog) | \[softmax(y), softmax(-y)\] | 2d | Zhang et al., "LoLCATs", 2024, as its code has it |
/// | [`HedgehogJoint`](Self::HedgehogJoint) | softmax(\[2y, -2y\]) over all 2d | 2d | Zhang et al., "The Hedgehog & the Porcupine", 2024, as flash-linear-attention has it |
/// | [`Product`](Self::Product) | (W₁ x + b₁) (W₂ x + b₂), element by element | any | |
/// | [`Favor`](Self::Favor) | F^(-1/2) e^(w_f . x̂ - \|x̂\|²/2) | any | Choromanski et al., "Rethinking Attention with Performers", 2021, lemma 1 |
/// | [`FavorHyperbolic`](Self::FavorHyperbolic) | F^(-1/2) \[e^(w . x̂ - \|x̂\|²/2), e^(-w . x̂ - \|x̂\|²/2)\] | 2 projections each | the same, SM^hyp+ |
/// | [`Fourier`](Self::Fourier) | (2/F)^(1/2) \[cos(w . x̂), sin(w . x̂)\] | 2 projections each | Rahimi and Recht, "Random Features", 2007; Peng et al., "Random Feature Attention", 2021 |
/// | [`Taylor`](Self::Taylor) | \[1, x̂, x̂_i²/√2, (x̂_i x̂_j) for i < j\] | 1 + d + d(d+1)/2 | Arora et al., "Based", 2024, with each product once |
/// | [`Dpfp`](Self::Dpfp) | r_i r_(i-j mod 2d) for j = 1..nu, r = \[max(x, 0), max(-x, 0)\] | 2 d nu | Schlag et al., "Linear Transformers Are Secretly Fast Weight Programmers", 2021, eq. 37 |
/// | [`Custom`](Self::Custom) | the caller's own | any | [`CustomMap`] |
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum FeatureMap {
    /// x. Can be negative, so the normalised form must be asked for by name:
    /// [`Normalization::SignedSum`](crate::Normalization::SignedSum).
    Identity,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    ReluSquared,
    /// elu(x) + 1, formed without its cancellation: x + 1 where x >= 0, e^x elsewhere.
    #[default]
    Elu,
    /// e^x. Where o is normalised the row max of a query is subtracted before exp, so that no query
    /// overflows; the factor cancels in the quotient. A key has no such way out, since its factor
    /// is its weight against other keys: beyond 88 it is infinite in f32, and an error of slices.
    Exp,
    /// x / (1 + e^-x). Can be negative.
    Silu,
    /// 1 / (1 + e^-x).
    Sigmoid,
    /// softmax over the width of the row.
    Softmax,
    /// max(W x + b, 0), to be trained.
    T2r {
        /// F.
        features: u32,
    },
    /// \[softmax(y), softmax(-y)\] of y = W x + b with W `[d,d]`, to be trained: two softmaxes,
    /// each over d.
    Hedgehog,
    /// softmax(\[2y, -2y\]) of the same y: one softmax over 2d.
    HedgehogJoint,
    /// (W₁ x + b₁) (W₂ x + b₂), to be trained. Can be negative. The projections are those of W₁
    /// and then those of W₂.
    Product {
        /// F.
        features: u32,
    },
    /// Positive random features, of which φ(x) . φ(y) is e^(x . y / √d) in the mean.
    Favor {
        /// F, as many as there are projections.
        features: u32,
    },
    /// The same with w and -w, which lowers the variance.
    FavorHyperbolic {
        /// F, a multiple of 8: two for each projection.
        features: u32,
    },
    /// Random Fourier features, of which φ(x) . φ(y) is e^(-|x - y|² / 2√d) in the mean; for rows
    /// of one length that is softmax's weight but for a factor. Can be negative.
    Fourier {
        /// F, a multiple of 8: two for each projection.
        features: u32,
    },
    /// The Taylor series of e^(x . y / √d) to its second term. A feature can be negative, but the
    /// weight φ(x) . φ(y) = 1 + z + z²/2 cannot. In the order 1, x, squares, products row by row.
    Taylor,
    /// Deterministic parameter-free projection.
    Dpfp {
        /// The largest distance between the factors of a product.
        nu: u32,
    },
    /// The caller's own.
    Custom(Arc<CustomMap>),
}

impl FeatureMap {
    /// The element-wise maps: F = K, and feature f is a function of element f.
    pub const ELEMENT_WISE: [FeatureMap; 7] = [
        Self::Identity,
        Self::Relu,
        Self::ReluSquared,
        Self::Elu,
        Self::Exp,
        Self::Silu,
        Self::Sigmoid,
    ];

    /// The map's name without its sizes, as the command line and the harness spell it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Identity => "identity",
            Self::Relu => "relu",
            Self::ReluSquared => "relu-squared",
            Self::Elu => "elu",
            Self::Exp => "exp",
            Self::Silu => "silu",
            Self::Sigmoid => "sigmoid",
            Self::Softmax => "softmax",
            Self::T2r { .. } => "t2r",
            Self::Hedgehog => "hedgehog",
            Self::HedgehogJoint => "hedgehog-joint",
            Self::Product { .. } => "product",
            Self::Favor { .. } => "favor",
            Self::FavorHyperbolic { .. } => "favor-hyperbolic",
            Self::Fourier { .. } => "fourier",
            Self::Taylor => "taylor",
            Self::Dpfp { .. } => "dpfp",
            Self::Custom(map) => map.name(),
        }
    }

    /// F for rows of K elements; saturates where it is beyond 32 bits.
    #[must_use]
    pub fn features(&self, key_dim: u32) -> u32 {
        let d = u64::from(key_dim);
        let features = match self {
            Self::Identity
            | Self::Relu
            | Self::ReluSquared
            | Self::Elu
            | Self::Exp
            | Self::Silu
            | Self::Sigmoid
            | Self::Softmax => d,
            Self::Hedgehog | Self::HedgehogJoint => 2 * d,
            Self::T2r { features }
            | Self::Product { features }
            | Self::Favor { features }
            | Self::FavorHyperbolic { features }
            | Self::Fourier { features } => (*features).into(),
            Self::Taylor => 1 + d + d * (d + 1) / 2,
            Self::Dpfp { nu } => (2 * d).saturating_mul((*nu).into()),
            Self::Custom(map) => map.features().into(),
        };
        u32::try_from(features).unwrap_or(u32::MAX)
    }

    /// P, the projections of a row that the map is a function of: 0 where it needs no weights.
    #[must_use]
    pub fn projections(&self, key_dim: u32) -> u32 {
        self.matrix_rows(key_dim).saturating_mul(self.matrices())
    }

    /// Rows of each weight matrix.
    pub(crate) fn matrix_rows(&self, key_dim: u32) -> u32 {
        match self {
            Self::T2r { features } | Self::Product { features } | Self::Favor { features } => {
                *features
            }
            Self::FavorHyperbolic { features } | Self::Fourier { features } => features / 2,
            Self::Hedgehog | Self::HedgehogJoint => key_dim,
            Self::Custom(map) => map.projections(),
            _ => 0,
        }
    }

    /// Weight matrices, one after the other.
    pub(crate) fn matrices(&self) -> u32 {
        if let Self::Product { .. } = self { 2 } else { 1 }
    }

    /// True for an element-wise map: feature f is a function of element f alone.
    #[must_use]
    pub fn is_element_wise(&self) -> bool {
        Self::ELEMENT_WISE.contains(self)
    }

    /// True if the attention weights φ(q) . φ(k) are never negative.
    #[must_use]
    pub fn is_non_negative(&self) -> bool {
        matches!(self, Self::Taylor) || self.has_non_negative_features()
    }

    /// True if no feature is ever negative.
    pub(crate) fn has_non_negative_features(&self) -> bool {
        match self {
            Self::Identity
            | Self::Silu
            | Self::Product { .. }
            | Self::Fourier { .. }
            | Self::Taylor => false,
            Self::Custom(map) => map.is_non_negative(),
            _ => true,
        }
    }

    /// True if the weights are sampled rather than trained.
    #[must_use]
    pub fn is_random(&self) -> bool {
        matches!(self, Self::Favor { .. } | Self::FavorHyperbolic { .. } | Self::Fourier { .. })
    }

    /// The names and codes of the maps in the shaders.
    pub(crate) const CODES: [(&'static str, u32); 18] = [
        ("IDENTITY", 0),
        ("RELU", 1),
        ("ELU", 2),
        ("RELU_SQUARED", 3),
        ("EXP", 4),
        ("SILU", 5),
        ("SIGMOID", 6),
        ("SOFTMAX", 7),
        ("T2R", 8),
        ("HEDGEHOG", 9),
        ("HEDGEHOG_JOINT", 10),
        ("PRODUCT", 11),
        ("FAVOR", 12),
        ("FAVOR_HYPERBOLIC", 13),
        ("FOURIER", 14),
        ("TAYLOR", 15),
        ("DPFP", 16),
        ("CUSTOM", 17),
    ];

    /// Its code in [`FeatureMap::CODES`].
    pub(crate) fn code(&self) -> u32 {
        if let Self::Custom(_) = self {
            return 17;
        }
        let name = self.name().to_uppercase().replace('-', "_");
        Self::CODES.iter().find(|(code, _)| *code == name).map_or(17, |(_, code)| *code)
    }

    /// The vec4s of projections that a row keeps in workgroup memory, because a feature is a
    /// function of all of them.
    pub(crate) fn kept_projections(&self, key_dim: u32) -> u32 {
        match self {
            Self::Hedgehog | Self::HedgehogJoint => key_dim.div_ceil(4),
            Self::Custom(map) => map.projections().div_ceil(4),
            _ => 0,
        }
    }

    /// Checks that its own sizes are in range for rows of K elements.
    pub(crate) fn validate(&self, key_dim: u32) -> Result<(), ConfigError> {
        let refuse = |what, required: String, actual| {
            let feature_map = self.name().to_owned();
            Err(ConfigError::FeatureMap { feature_map, what, required, actual })
        };
        match self {
            Self::FavorHyperbolic { features } | Self::Fourier { features }
                if !features.is_multiple_of(8) =>
            {
                return refuse("features", "a multiple of 8".to_owned(), *features);
            }
            Self::Custom(map) if map.projections() > MAX_PROJECTIONS => {
                return refuse(
                    "projections",
                    format!("at most {MAX_PROJECTIONS}"),
                    map.projections(),
                );
            }
            Self::Dpfp { nu } if *nu == 0 || *nu >= 2 * key_dim => {
                return refuse("nu", format!("1 to {}", 2 * key_dim - 1), *nu);
            }
            _ => {}
        }
        let features = self.features(key_dim);
        if !(1..=MAX_FEATURES).contains(&features) {
            return refuse("features", format!("1 to {MAX_FEATURES}"), features);
        }
        Ok(())
    }
}

/// The name and, where a size is not K's, that: `favor:256`.
impl fmt::Display for FeatureMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::T2r { features: size }
            | Self::Product { features: size }
            | Self::Favor { features: size }
            | Self::FavorHyperbolic { features: size }
            | Self::Fourier { features: size }
            | Self::Dpfp { nu: size } => format!("{}:{size}", self.name()),
            _ => self.name().to_owned(),
        };
        f.pad(&text)
    }
}

/// Every map but [`FeatureMap::Custom`], as [`Display`](fmt::Display) writes it.
impl FromStr for FeatureMap {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        let (name, size) = match text.split_once(':') {
            Some((name, size)) => (name, Some(size)),
            None => (text, None),
        };
        let size = size.map(|size| size.parse::<u32>().ok().filter(|size| *size > 0));
        let map = match (name, size) {
            ("identity", None) => Self::Identity,
            ("relu", None) => Self::Relu,
            ("relu-squared", None) => Self::ReluSquared,
            ("elu", None) => Self::Elu,
            ("exp", None) => Self::Exp,
            ("silu", None) => Self::Silu,
            ("sigmoid", None) => Self::Sigmoid,
            ("softmax", None) => Self::Softmax,
            ("hedgehog", None) => Self::Hedgehog,
            ("hedgehog-joint", None) => Self::HedgehogJoint,
            ("taylor", None) => Self::Taylor,
            ("t2r", Some(Some(features))) => Self::T2r { features },
            ("product", Some(Some(features))) => Self::Product { features },
            ("favor", Some(Some(features))) => Self::Favor { features },
            ("favor-hyperbolic", Some(Some(features))) => Self::FavorHyperbolic { features },
            ("fourier", Some(Some(features))) => Self::Fourier { features },
            ("dpfp", Some(Some(nu))) => Self::Dpfp { nu },
            _ => return Err(ConfigError::UnknownFeatureMap { actual: text.to_owned() }),
        };
        Ok(map)
    }
}

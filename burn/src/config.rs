//! The config of the module.

use burn::config::Config as BurnConfig;
use burn::nn::Initializer;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, FeatureMap, Normalization};

use crate::error::Error;

/// The update rule of the state.
#[derive(BurnConfig, Debug, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// A sum of all tokens.
    Linear,
    /// A sum that decays.
    Gated,
    /// A value replaces the one that the state recalls for its key.
    Delta,
    /// Both.
    GatedDelta,
}

/// The decays of the rules gated and gated-delta.
#[derive(BurnConfig, Debug, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decays {
    /// One of each value head, learned, the same for all tokens.
    Constant,
    /// One of each token and value head.
    PerHead,
    /// One of each token, value head and row of the state.
    PerRow,
}

/// The feature map φ. Those with weights are functions of y = W x + b.
#[derive(BurnConfig, Debug, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Map {
    /// x.
    Identity,
    /// max(x, 0).
    Relu,
    /// max(x, 0)².
    ReluSquared,
    /// elu(x) + 1.
    Elu,
    /// e^x.
    Exp,
    /// x sigmoid(x).
    Silu,
    /// sigmoid(x).
    Sigmoid,
    /// softmax over the row.
    Softmax,
    /// The second-order Taylor series of e^(x . y / √K).
    Taylor,
    /// max(y, 0).
    T2r,
    /// \[softmax(y), softmax(-y)\], of F = 2 K.
    Hedgehog,
    /// softmax(\[2y, -2y\]), of F = 2 K.
    HedgehogJoint,
    /// y₁ y₂, element by element, each with a W and b of its own.
    Product,
    /// Positive random features of softmax's weight.
    Favor,
    /// The same with W and -W.
    FavorHyperbolic,
    /// Random Fourier features.
    Fourier,
}

impl Map {
    /// With F features, where that is for the caller to choose.
    fn to_core(self, features: Option<u32>, key_dim: u32) -> FeatureMap {
        let any = features.unwrap_or(key_dim);
        let pairs = features.unwrap_or(key_dim.saturating_mul(2));
        match self {
            Self::Identity => FeatureMap::Identity,
            Self::Relu => FeatureMap::Relu,
            Self::ReluSquared => FeatureMap::ReluSquared,
            Self::Elu => FeatureMap::Elu,
            Self::Exp => FeatureMap::Exp,
            Self::Silu => FeatureMap::Silu,
            Self::Sigmoid => FeatureMap::Sigmoid,
            Self::Softmax => FeatureMap::Softmax,
            Self::Taylor => FeatureMap::Taylor,
            Self::T2r => FeatureMap::T2r { features: any },
            Self::Hedgehog => FeatureMap::Hedgehog,
            Self::HedgehogJoint => FeatureMap::HedgehogJoint,
            Self::Product => FeatureMap::Product { features: any },
            Self::Favor => FeatureMap::Favor { features: any },
            Self::FavorHyperbolic => FeatureMap::FavorHyperbolic { features: pairs },
            Self::Fourier => FeatureMap::Fourier { features: pairs },
        }
    }
}

/// The config of a [`LinearAttention`].
///
/// A field that is `None` follows from the rest: as many key and value heads as query heads, rows
/// as wide as they share `d_model`, and what the rule usually has. That is elu + 1 and an average
/// of values for `Linear`; identity, no quotient, the scale `key_dim^(-1/2)` and a norm of the
/// output for the others; and for delta rules q and k that are divided by their L2 norms.
#[derive(BurnConfig, Debug)]
pub struct LinearAttentionConfig {
    /// The width of the input and of the output.
    pub d_model: usize,
    /// H, query heads.
    pub heads: usize,
    /// G, key heads; divides E.
    pub key_heads: Option<usize>,
    /// E, value heads, each with a state of its own; divides H or is a multiple of it.
    pub value_heads: Option<usize>,
    /// K, the width of a row of q and k.
    pub key_dim: Option<usize>,
    /// V, the width of a row of v.
    pub value_dim: Option<usize>,
    /// The update rule.
    #[config(default = "Rule::Linear")]
    pub rule: Rule,
    /// The decays, where the rule has any.
    #[config(default = "Decays::PerHead")]
    pub decays: Decays,
    /// The feature map.
    pub map: Option<Map>,
    /// F of the maps `T2r`, `Product` and `Favor`, else K, and of `FavorHyperbolic` and `Fourier`,
    /// else 2 K; others have no use for it.
    pub features: Option<usize>,
    /// True gives each query head weights of the map of its own; false the queries those of the key
    /// heads that they read. `None` is true but for random maps, whose keys and queries must have
    /// the same.
    pub query_weights: Option<bool>,
    /// The seed of the initial weights of maps.
    #[config(default = 0)]
    pub map_seed: u64,
    /// True divides o by the sum of the weights of all tokens.
    pub normalized: Option<bool>,
    /// True divides rows of q and k by their L2 norms.
    pub l2_norm: Option<bool>,
    /// The factor of o before it is divided.
    pub scale: Option<f32>,
    /// True normalises each head's row of o by its root mean square.
    pub output_norm: Option<bool>,
    /// True gives q, k, v and the output biases.
    #[config(default = false)]
    pub bias: bool,
    /// The initialiser of the projections.
    #[config(
        default = "Initializer::KaimingUniform { gain: 0.577_350_269_189_625_7, fan_out_only: false }"
    )]
    pub initializer: Initializer,
}

impl LinearAttentionConfig {
    /// The config of the core crate.
    ///
    /// # Errors
    ///
    /// Sizes out of range, or parts that do not go together.
    pub fn to_core(&self) -> Result<Config, Error> {
        let decay = match self.decays {
            Decays::Constant => Decay::constant(),
            Decays::PerHead => Decay::per_head(),
            Decays::PerRow => Decay::per_row(),
        };
        let rule = match self.rule {
            Rule::Linear => UpdateRule::Linear,
            Rule::Gated => UpdateRule::Gated(decay),
            Rule::Delta => UpdateRule::Delta(Beta::per_head()),
            Rule::GatedDelta => UpdateRule::GatedDelta(decay, Beta::per_head()),
        };
        let [key_dim, value_dim] =
            [self.key_dim(), self.value_dim()].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let mut config = Config::of_rule(key_dim, value_dim, rule);
        if let Some(map) = self.map {
            let features = self.features.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
            config = config.with_feature_map(map.to_core(features, key_dim));
        }
        match self.normalized {
            Some(true) if config.is_non_negative() => {
                config = config.with_normalization(Normalization::Sum { eps: 0.0 });
            }
            Some(true) => {
                config = config.with_normalization(Normalization::SignedSum { eps: 1e-6 });
            }
            Some(false) => config = config.with_normalization(Normalization::None),
            None => {}
        }
        config = config.with_l2_norm(self.l2_norm.unwrap_or(rule.beta().is_some()));
        let scale = match config.is_normalized() {
            true => 1.0,
            false => (key_dim as f32).powf(-0.5),
        };
        config = config.with_scale(self.scale.unwrap_or(scale));
        config.validate()?;
        Ok(config)
    }

    pub(crate) fn key_heads(&self) -> usize {
        self.key_heads.unwrap_or_else(|| self.value_heads())
    }

    pub(crate) fn value_heads(&self) -> usize {
        self.value_heads.unwrap_or(self.heads)
    }

    pub(crate) fn key_dim(&self) -> usize {
        self.key_dim.unwrap_or(self.d_model / self.heads.max(1))
    }

    pub(crate) fn value_dim(&self) -> usize {
        self.value_dim.unwrap_or(self.d_model / self.heads.max(self.value_heads()).max(1))
    }
}

//! The update rule of a file: the one that its tensors imply, or that the caller names.

use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, Shape};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::tensors::{expect_shape, required, to_f32};

/// An update rule by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum RuleName {
    Linear,
    Gated,
    Delta,
    GatedDelta,
}

impl RuleName {
    fn has_decay(self) -> bool {
        matches!(self, Self::Gated | Self::GatedDelta)
    }

    fn has_beta(self) -> bool {
        matches!(self, Self::Delta | Self::GatedDelta)
    }

    /// The rule with a decay and a beta of f32 for each token and head.
    pub(crate) fn with_defaults(self) -> UpdateRule {
        self.with(Decay::per_head(), Beta::per_head())
    }

    fn with(self, decay: Decay, beta: Beta) -> UpdateRule {
        match self {
            Self::Linear => UpdateRule::Linear,
            Self::Gated => UpdateRule::Gated(decay),
            Self::Delta => UpdateRule::Delta(beta),
            Self::GatedDelta => UpdateRule::GatedDelta(decay, beta),
        }
    }
}

/// The rule of a file: the one that is named, or that of the tensors that it has.
pub(crate) fn update_rule(
    tensors: &SafeTensors<'_>,
    named: Option<RuleName>,
) -> Result<UpdateRule, String> {
    let has = |name| tensors.tensor(name).is_ok();
    let rule = named.unwrap_or(match (has("decay"), has("beta")) {
        (false, false) => RuleName::Linear,
        (true, false) => RuleName::Gated,
        (false, true) => RuleName::Delta,
        (true, true) => RuleName::GatedDelta,
    });
    let (mut decay, mut beta) = (Decay::per_head(), Beta::per_head());
    if rule.has_decay() {
        let tensor = required(tensors, "decay")?;
        decay = match tensor.shape().len() {
            1 => Decay::constant(),
            4 => Decay::per_row(),
            _ => Decay::per_head(),
        };
        decay = decay.with_dtype(dtype("decay", &tensor)?);
    }
    if rule.has_beta() {
        let tensor = required(tensors, "beta")?;
        if matches!(tensor.shape(), [_, _, 1]) {
            beta = Beta::shared();
        }
        beta = beta.with_dtype(dtype("beta", &tensor)?);
    }
    Ok(rule.with(decay, beta))
}

fn dtype(name: &str, tensor: &TensorView<'_>) -> Result<linear_attention::Dtype, String> {
    let found = tensor.dtype();
    linear_attention::Dtype::from_name(&found.to_string())
        .ok_or_else(|| format!("tensor {name}: expected dtype F32 or that of q, found {found}"))
}

/// The decays and betas that the rule of `config` reads from a file.
pub(crate) fn gates(
    tensors: &SafeTensors<'_>,
    config: &Config,
    shape: &Shape,
    q: Dtype,
) -> Result<[Option<Vec<f32>>; 2], String> {
    let (b, t, e) = (shape.batch, shape.seq_len, shape.value_heads);
    let read = |name: &str, is_used: bool, shape: &[u32]| -> Result<Option<Vec<f32>>, String> {
        if !is_used {
            return Ok(None);
        }
        let tensor = required(tensors, name)?;
        let found = tensor.dtype();
        if found != Dtype::F32 && found != q {
            return Err(format!("tensor {name}: expected dtype F32 or {q} as q, found {found}"));
        }
        expect_shape(name, &tensor, shape)?;
        Ok(Some(to_f32(&tensor)))
    };
    let rule = config.update_rule;
    let rank = tensors.tensor("decay").map_or(3, |tensor| tensor.shape().len());
    let decay_shape = match rank {
        1 => vec![e],
        4 => vec![b, t, e, config.features()],
        _ => vec![b, t, e],
    };
    let is_shared = rule.beta() == Some(Beta::shared().with_dtype(beta_dtype(config)));
    let beta_shape = [b, t, if is_shared { 1 } else { e }];
    Ok([
        read("decay", rule.decay().is_some(), &decay_shape)?,
        read("beta", rule.beta().is_some(), &beta_shape)?,
    ])
}

fn beta_dtype(config: &Config) -> linear_attention::Dtype {
    config.update_rule.beta().map_or(linear_attention::Dtype::F32, |beta| beta.dtype)
}

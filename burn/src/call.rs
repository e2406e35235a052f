//! A call, checked before any backend sees it.

use burn::backend::TensorMetadata;
use burn::tensor::{DType, Shape as Dims};
use linear_attention::feature_map::WeightHeads;
use linear_attention::shape::Lens;
use linear_attention::update_rule::{BetaDims, DecayDims, UpdateRule};
use linear_attention::{Config, Dtype, Shape};

use crate::error::Error;
use crate::inputs::{Outputs, Parts};

/// The config, with the types of the tensors, and the sizes of a call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) config: Config,
    pub(crate) shape: Shape,
    pub(crate) lens: Lens,
    /// The heads that have weights of the feature maps of their own.
    pub(crate) weight_heads: WeightHeads,
    /// True if the call returns the final state.
    pub(crate) keeps_state: bool,
}

impl Call {
    /// Checks the dimensions and types of the tensors, and that those are there that the rule has.
    pub(crate) fn new<T: TensorMetadata>(
        config: &Config,
        inputs: &Parts<T>,
        weight_heads: WeightHeads,
        keeps_state: bool,
    ) -> Result<Self, Error> {
        let config = with_dtypes(config.clone(), inputs)?;
        config.validate()?;
        check_support(&config)?;
        // Their rank is that of `Inputs`.
        let dims = |x: &T| <[usize; 4]>::try_from(x.shape().as_slice()).unwrap_or_default();
        let [q, k, v] = [&inputs.q, &inputs.k, &inputs.v].map(dims);
        let [batch, seq_len, heads, _] = q;
        let (key_heads, value_heads) = (k[2], v[2]);
        let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
        expect("q", &q, [batch, seq_len.max(1), heads, key_dim])?;
        expect("k", &k, [batch, seq_len, key_heads, key_dim])?;
        expect("v", &v, [batch, seq_len, value_heads, value_dim])?;
        let [b, t, h, g, e] = [batch, seq_len, heads, key_heads, value_heads]
            .map(|n| n.try_into().unwrap_or(u32::MAX));
        let shape = Shape::new(b, t, h).with_key_heads(g).with_value_heads(e);
        let lens = shape.lens(&config)?;
        let features = config.features() as usize;
        let rule = config.update_rule;
        let required = rule.decay().map(|decay| match decay.dims {
            DecayDims::Constant => vec![value_heads],
            DecayDims::PerRow => vec![batch, seq_len, value_heads, features],
            _ => vec![batch, seq_len, value_heads],
        });
        check_gate("decay", rule, inputs.decay.as_ref(), required)?;
        let required = rule.beta().map(|beta| match beta.dims {
            BetaDims::Shared => vec![batch, seq_len, 1],
            _ => vec![batch, seq_len, value_heads],
        });
        check_gate("beta", rule, inputs.beta.as_ref(), required)?;
        if let Some(state) = &inputs.initial_state {
            let required = [batch, lens.state as usize / batch.max(1)];
            expect("initial_state", &state.shape().to_vec(), required)?;
        }
        weight_heads.check(&config, &shape)?;
        Ok(Self { config, shape, lens, weight_heads, keeps_state })
    }

    /// The dimensions of o and, where the call returns it, of the final state.
    pub(crate) fn output_dims(&self) -> Outputs<Dims> {
        let [batch, tokens, heads, width] = [
            self.shape.batch,
            self.shape.seq_len,
            self.shape.output_heads(),
            self.config.value_dim,
        ]
        .map(|n| n as usize);
        Outputs {
            o: Dims::new([batch, tokens, heads, width]),
            state: self.keeps_state.then(|| Dims::new([batch, self.state_len()])),
        }
    }

    /// Elements of the state of a sequence.
    pub(crate) fn state_len(&self) -> usize {
        (self.lens.state / u64::from(self.shape.batch.max(1))) as usize
    }

    /// The type of q, k, v and o.
    pub(crate) fn dtype(&self) -> DType {
        match self.config.dtype {
            Dtype::F16 => DType::F16,
            Dtype::Bf16 => DType::BF16,
            _ => DType::F32,
        }
    }

    /// Refuses what has no derivative, before a graph has it.
    #[cfg(feature = "autodiff")]
    pub(crate) fn check_derivative(&self) -> Result<(), Error> {
        let maps = [self.config.key_map(), self.config.query_map()];
        match maps.into_iter().find(|map| matches!(map, linear_attention::FeatureMap::Custom(_))) {
            Some(map) => {
                let feature_map = map.name().to_owned();
                Err(linear_attention::Error::NoDerivative { feature_map }.into())
            }
            None => Ok(()),
        }
    }
}

/// The config with the types that the tensors have.
fn with_dtypes<T: TensorMetadata>(config: Config, inputs: &Parts<T>) -> Result<Config, Error> {
    let dtype = dtype_of("q", &inputs.q)?;
    for (tensor, x) in [("k", &inputs.k), ("v", &inputs.v)] {
        if dtype_of(tensor, x)? != dtype {
            let (required, actual) = (dtype.name(), format!("{:?}", x.dtype()));
            return Err(Error::Dtype { tensor, required, actual });
        }
    }
    if let Some(state) = &inputs.initial_state
        && state.dtype() != DType::F32
    {
        let actual = format!("{:?}", state.dtype());
        return Err(Error::Dtype { tensor: "initial_state", required: "F32", actual });
    }
    let of = |tensor, x: Option<&T>| x.map_or(Ok(Dtype::F32), |x| dtype_of(tensor, x));
    let (of_decay, of_beta) =
        (of("decay", inputs.decay.as_ref())?, of("beta", inputs.beta.as_ref())?);
    let rule = match config.update_rule {
        UpdateRule::Gated(decay) => UpdateRule::Gated(decay.with_dtype(of_decay)),
        UpdateRule::Delta(beta) => UpdateRule::Delta(beta.with_dtype(of_beta)),
        UpdateRule::GatedDelta(decay, beta) => {
            UpdateRule::GatedDelta(decay.with_dtype(of_decay), beta.with_dtype(of_beta))
        }
        rule => rule,
    };
    Ok(config.with_dtype(dtype).with_update_rule(rule))
}

fn dtype_of<T: TensorMetadata>(tensor: &'static str, x: &T) -> Result<Dtype, Error> {
    match x.dtype() {
        DType::F32 => Ok(Dtype::F32),
        DType::F16 => Ok(Dtype::F16),
        DType::BF16 => Ok(Dtype::Bf16),
        other => {
            let actual = format!("{other:?}");
            Err(Error::Dtype { tensor, required: "F32, F16 or BF16", actual })
        }
    }
}

/// Refuses what takes tensors that [`Inputs`](crate::Inputs) does not have.
fn check_support(config: &Config) -> Result<(), Error> {
    if config.update_rule.needs_gate_weights() {
        let actual = format!("{:?}", config.update_rule.decay());
        return Err(Error::Unsupported { what: "an activation of decays", actual });
    }
    Ok(())
}

fn expect<const D: usize>(
    tensor: &'static str,
    actual: &[usize],
    required: [usize; D],
) -> Result<(), Error> {
    if actual == required {
        return Ok(());
    }
    Err(Error::Shape { tensor, required: required.to_vec(), actual: actual.to_vec() })
}

/// Checks decay or beta, which have the dimensions `required` where the rule has them.
fn check_gate<T: TensorMetadata>(
    tensor: &'static str,
    rule: UpdateRule,
    x: Option<&T>,
    required: Option<Vec<usize>>,
) -> Result<(), Error> {
    let rule = rule.name();
    match (x, required) {
        (None, None) => Ok(()),
        (Some(_), None) => {
            Err(Error::RuleTensor { tensor, required: "absent", rule, actual: "some" })
        }
        (None, Some(_)) => {
            Err(Error::RuleTensor { tensor, required: "given", rule, actual: "none" })
        }
        (Some(x), Some(required)) => {
            let actual = x.shape().to_vec();
            if actual == required {
                return Ok(());
            }
            Err(Error::Shape { tensor, required, actual })
        }
    }
}

//! Attention as a module, with its projections.

use burn::module::{Module, Param};
use burn::nn::{Linear, LinearConfig, RmsNorm, RmsNormConfig};
use burn::tensor::{Device, Tensor, TensorData, activation};
use linear_attention::Config;
use linear_attention::update_rule::DecayDims;

use crate::config::LinearAttentionConfig;
use crate::error::Error;
use crate::inputs::Inputs;
use crate::weights::initial;
use crate::{linear_attention, linear_attention_with_state};

impl LinearAttentionConfig {
    /// A module on this device, with new weights.
    ///
    /// # Errors
    ///
    /// As [`LinearAttentionConfig::to_core`]; heads that do not divide each other.
    pub fn init(&self, device: &Device) -> Result<LinearAttention, Error> {
        let config = self.to_core()?;
        let [heads, key_heads, value_heads] = [self.heads, self.key_heads(), self.value_heads()];
        let [h, g, e] =
            [heads, key_heads, value_heads].map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        // Refuses heads before a projection has them.
        let shape = linear_attention::Shape::new(1, 1, h).with_key_heads(g).with_value_heads(e);
        shape.lens(&config)?;
        let (key_dim, value_dim) = (self.key_dim(), self.value_dim());
        let linear = |d_input, d_output, bias| {
            LinearConfig::new(d_input, d_output)
                .with_bias(bias)
                .with_initializer(self.initializer.clone())
                .init(device)
        };
        let d_model = self.d_model;
        let rows = match config.update_rule.decay().map(|decay| decay.dims) {
            Some(DecayDims::PerRow) => config.features() as usize,
            _ => 1,
        };
        let (key_map, query_map) = self.map_weights(&config, device)?;
        let has_norm = self.output_norm.unwrap_or(!config.is_normalized());
        Ok(LinearAttention {
            query: linear(d_model, heads * key_dim, self.bias),
            key: linear(d_model, key_heads * key_dim, self.bias),
            value: linear(d_model, value_heads * value_dim, self.bias),
            decay: config.update_rule.decay().map(|decay| {
                let is_constant = decay.dims == DecayDims::Constant;
                let project = || linear(d_model, value_heads * rows, false);
                DecayGate::new((!is_constant).then(project), value_heads, rows, device)
            }),
            beta: config.update_rule.beta().map(|_| linear(d_model, value_heads, true)),
            key_map,
            query_map,
            norm: has_norm.then(|| RmsNormConfig::new(value_dim).init(device)),
            output: linear(heads.max(value_heads) * value_dim, d_model, self.bias),
            config,
            heads,
            key_heads,
            value_heads,
        })
    }

    /// The weights of the maps of keys and of queries. Random ones are those of all heads.
    fn map_weights(
        &self,
        config: &Config,
        device: &Device,
    ) -> Result<(Option<MapWeights>, Option<MapWeights>), Error> {
        let map = config.key_map();
        if !config.needs_weights() {
            return Ok((None, None));
        }
        let initial = initial(config, map, self.map_seed)?;
        let of = |heads: usize| MapWeights::new(&initial, [heads, config.key_dim as usize], device);
        if map.is_random() {
            return Ok((
                Some(of(1).no_grad()),
                self.query_weights.unwrap_or(false).then(|| of(1).no_grad()),
            ));
        }
        let queries = self.query_weights.unwrap_or(true).then(|| of(self.heads));
        Ok((Some(of(self.key_heads())), queries))
    }
}

/// Linear causal attention with its projections, in place of a transformer block's softmax
/// attention.
///
/// ```text
/// q, k, v = x W_q, x W_k, x W_v                                rows of K, K and V
/// decay   = -exp(a_log) softplus(x W_decay + dt_bias)          gated, gated-delta
/// beta    = sigmoid(x W_beta + b_beta)                         delta, gated-delta
/// y       = norm(attention(q, k, v, decay, beta)) W_o
/// ```
///
/// A constant decay is `-exp(a_log)`. A feature map with weights has W and b of each key head and
/// of each query head, which are trained, or, where it is random, the same for all, which are not
/// ([`Module::no_grad`]). Short convolutions and output gates are missing.
#[derive(Module, Debug)]
pub struct LinearAttention {
    /// W_q.
    pub query: Linear,
    /// W_k.
    pub key: Linear,
    /// W_v.
    pub value: Linear,
    /// The decays, where the rule has any.
    pub decay: Option<DecayGate>,
    /// W_beta, where the rule has betas.
    pub beta: Option<Linear>,
    /// W and b of the feature map of keys, where it has weights.
    pub key_map: Option<MapWeights>,
    /// The same of queries, where they have weights of their own.
    pub query_map: Option<MapWeights>,
    /// The norm of each head's row of o.
    pub norm: Option<RmsNorm>,
    /// W_o.
    pub output: Linear,
    #[module(skip)]
    config: Config,
    heads: usize,
    key_heads: usize,
    value_heads: usize,
}

/// The learned decays of a [`LinearAttention`].
#[derive(Module, Debug)]
pub struct DecayGate {
    /// W_decay; `None` where decays are constant.
    pub projection: Option<Linear>,
    /// The logarithm of what multiplies a decay, `[E]`.
    pub a_log: Param<Tensor<1>>,
    /// Added before the softplus, `[E]` or `[E F]`; `None` where decays are constant.
    pub dt_bias: Option<Param<Tensor<1>>>,
}

/// W and b of the projections y = W x + b of a feature map.
#[derive(Module, Debug)]
pub struct MapWeights {
    /// W, `[heads,P,K]`.
    pub weight: Param<Tensor<3>>,
    /// b, `[heads,P]`.
    pub bias: Param<Tensor<2>>,
}

impl MapWeights {
    /// The same for all heads.
    fn new([weight, bias]: &[Vec<f32>; 2], [heads, key_dim]: [usize; 2], device: &Device) -> Self {
        let rows = bias.len();
        let data = |x: &[f32], dims: Vec<usize>| TensorData::new(x.repeat(heads), dims);
        let weight = data(weight, vec![heads, rows, key_dim]);
        let bias = data(bias, vec![heads, rows]);
        Self {
            weight: Param::from_tensor(Tensor::from_data(weight, device)),
            bias: Param::from_tensor(Tensor::from_data(bias, device)),
        }
    }
}

impl DecayGate {
    /// Without an input the decays are from -0.001 to -0.1, evenly spaced in their logarithms: the
    /// heads remember from some 10 to some 1,000 tokens.
    fn new(projection: Option<Linear>, heads: usize, rows: usize, device: &Device) -> Self {
        let spaced = |len: usize| -> Vec<f32> {
            let of = |i: usize| 0.001 * 100f32.powf((i as f32 + 0.5) / len as f32);
            (0..len).map(of).collect()
        };
        let param = |x: Vec<f32>| {
            let len = x.len();
            Param::from_tensor(Tensor::from_data(TensorData::new(x, [len]), device))
        };
        if projection.is_none() {
            let a_log = spaced(heads).into_iter().map(f32::ln).collect();
            return Self { projection, a_log: param(a_log), dt_bias: None };
        }
        // The inverse of softplus.
        let dt_bias = spaced(heads * rows).into_iter().map(|dt| dt.exp_m1().ln()).collect();
        Self { projection, a_log: param(vec![0.0; heads]), dt_bias: Some(param(dt_bias)) }
    }

    /// The tokens' part of the decays, `[B,T,E F]` or `[B,T,E]`, before the factors.
    fn softplus(&self, x: &Tensor<3>) -> Option<Tensor<3>> {
        let projected = self.projection.as_ref()?.forward(x.clone());
        let biased = match &self.dt_bias {
            Some(dt_bias) => projected + dt_bias.val().unsqueeze(),
            None => projected,
        };
        Some(activation::softplus(biased, 1.0))
    }
}

impl LinearAttention {
    /// Attention of sequences `[B,T,d_model]` from a zero state: the same dimensions.
    ///
    /// # Errors
    ///
    /// As [`linear_attention()`].
    pub fn forward(&self, x: Tensor<3>) -> Result<Tensor<3>, Error> {
        let o = linear_attention(&self.config, self.inputs(&x, None)?)?;
        Ok(self.project(o))
    }

    /// The same from the states that an earlier call ended with, and the states `[B,state]` that
    /// this one ends with: a prompt, and then token by token.
    ///
    /// # Errors
    ///
    /// As [`linear_attention()`].
    pub fn forward_with_state(
        &self,
        x: Tensor<3>,
        state: Option<Tensor<2>>,
    ) -> Result<(Tensor<3>, Tensor<2>), Error> {
        let (o, state) = linear_attention_with_state(&self.config, self.inputs(&x, state)?)?;
        Ok((self.project(o), state))
    }

    /// The core crate's config.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    fn inputs(&self, x: &Tensor<3>, state: Option<Tensor<2>>) -> Result<Inputs, Error> {
        let [batch, seq_len, width] = x.dims();
        let [d_model, _] = self.query.weight.dims();
        if width != d_model {
            let (required, actual) = (vec![batch, seq_len, d_model], vec![batch, seq_len, width]);
            return Err(Error::Shape { tensor: "x", required, actual });
        }
        let (key_dim, value_dim) = (self.config.key_dim as usize, self.config.value_dim as usize);
        let rows = |linear: &Linear, heads: usize, width: usize| {
            linear.forward(x.clone()).reshape([batch, seq_len, heads, width])
        };
        let mut inputs = Inputs::new(
            rows(&self.query, self.heads, key_dim),
            rows(&self.key, self.key_heads, key_dim),
            rows(&self.value, self.value_heads, value_dim),
        );
        if let Some(decay) = &self.decay {
            let factor = decay.a_log.val().exp().neg();
            let per_row = self.config.update_rule.decay().map(|decay| decay.dims);
            inputs = match decay.softplus(x) {
                None => inputs.with_decay(factor),
                Some(softplus) if per_row == Some(DecayDims::PerRow) => {
                    let features = self.config.features() as usize;
                    let dims = [batch, seq_len, self.value_heads, features];
                    let factor = factor.reshape([1, 1, self.value_heads, 1]);
                    inputs.with_decay(softplus.reshape(dims) * factor)
                }
                Some(softplus) => inputs.with_decay(softplus * factor.unsqueeze()),
            };
        }
        if let Some(beta) = &self.beta {
            inputs = inputs.with_beta(activation::sigmoid(beta.forward(x.clone())));
        }
        if let Some(MapWeights { weight, bias }) = &self.key_map {
            inputs = inputs.with_key_weights(weight.val(), Some(bias.val()));
        }
        if let Some(MapWeights { weight, bias }) = &self.query_map {
            inputs = inputs.with_query_weights(weight.val(), Some(bias.val()));
        }
        if let Some(state) = state {
            inputs = inputs.with_initial_state(state);
        }
        Ok(inputs)
    }

    fn project(&self, o: Tensor<4>) -> Tensor<3> {
        let o = match &self.norm {
            Some(norm) => norm.forward(o),
            None => o,
        };
        let [batch, seq_len, heads, width] = o.dims();
        self.output.forward(o.reshape([batch, seq_len, heads * width]))
    }
}

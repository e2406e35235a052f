//! A language model of bytes: an embedding, layers of attention and of an MLP, a tied head.

use burn::config::Config;
use burn::module::Module;
use burn::nn::{
    Embedding, EmbeddingConfig, Initializer, Linear, LinearConfig, RmsNorm, RmsNormConfig,
};
use burn::tensor::{Device, Int, Tensor, activation};
use linear_attention_burn::{Error, LinearAttention, LinearAttentionConfig, Rule};

/// The sizes of a [`Model`]. As JSON it is the metadata `config` of a checkpoint.
#[derive(Config, Debug)]
pub(crate) struct ModelConfig {
    /// Different tokens.
    #[config(default = 256)]
    pub vocabulary: usize,
    /// The width of the residual stream.
    #[config(default = 128)]
    pub d_model: usize,
    /// The width of the MLPs.
    #[config(default = 512)]
    pub d_mlp: usize,
    /// Heads of each attention.
    #[config(default = 4)]
    pub heads: usize,
    /// The rule of each layer.
    #[config(default = "vec![Rule::GatedDelta, Rule::Linear]")]
    pub layers: Vec<Rule>,
}

/// `logits = norm(layers(E tokens)) E^T`, where a layer is `x += attention(norm(x))` and then
/// `x += silu(norm(x) W_up) W_down`.
#[derive(Module, Debug)]
pub(crate) struct Model {
    pub embedding: Embedding,
    pub layers: Vec<Layer>,
    pub norm: RmsNorm,
}

#[derive(Module, Debug)]
pub(crate) struct Layer {
    pub attention_norm: RmsNorm,
    pub attention: LinearAttention,
    pub mlp_norm: RmsNorm,
    pub up: Linear,
    pub down: Linear,
}

/// The state of each layer, from which the next token goes on.
pub(crate) type States = Vec<Option<Tensor<2>>>;

impl ModelConfig {
    pub(crate) fn init(&self, device: &Device) -> Result<Model, Error> {
        let norm = || RmsNormConfig::new(self.d_model).init(device);
        let linear =
            |d_input, d_output| LinearConfig::new(d_input, d_output).with_bias(false).init(device);
        let layer = |rule: &Rule| {
            let attention = LinearAttentionConfig::new(self.d_model, self.heads)
                .with_rule(*rule)
                .init(device)?;
            Ok(Layer {
                attention_norm: norm(),
                attention,
                mlp_norm: norm(),
                up: linear(self.d_model, self.d_mlp),
                down: linear(self.d_mlp, self.d_model),
            })
        };
        // Small, since it is the head as well.
        let initializer = Initializer::Normal { mean: 0.0, std: 0.05 };
        let embedding = EmbeddingConfig::new(self.vocabulary, self.d_model);
        Ok(Model {
            embedding: embedding.with_initializer(initializer).init(device),
            layers: self.layers.iter().map(layer).collect::<Result<_, Error>>()?,
            norm: norm(),
        })
    }
}

impl Model {
    /// Logits `[B,T,vocabulary]` of tokens `[B,T]`.
    pub(crate) fn forward(&self, tokens: Tensor<2, Int>) -> Result<Tensor<3>, Error> {
        let mut x = self.embedding.forward(tokens);
        for layer in &self.layers {
            let attended = layer.attention.forward(layer.attention_norm.forward(x.clone()))?;
            x = layer.mlp(x + attended);
        }
        Ok(self.head(x))
    }

    /// The same from the states after earlier tokens, which become those after these.
    #[allow(dead_code, reason = "training has no use for it")]
    pub(crate) fn forward_with_states(
        &self,
        tokens: Tensor<2, Int>,
        states: &mut States,
    ) -> Result<Tensor<3>, Error> {
        states.resize(self.layers.len(), None);
        let mut x = self.embedding.forward(tokens);
        for (layer, state) in self.layers.iter().zip(states) {
            let normed = layer.attention_norm.forward(x.clone());
            let (attended, next) = layer.attention.forward_with_state(normed, state.take())?;
            *state = Some(next);
            x = layer.mlp(x + attended);
        }
        Ok(self.head(x))
    }

    /// The mean cross entropy, in nats, of the tokens that follow.
    pub(crate) fn loss(
        &self,
        tokens: Tensor<2, Int>,
        next: Tensor<2, Int>,
    ) -> Result<Tensor<1>, Error> {
        let logits = self.forward(tokens)?;
        let [batch, seq_len, vocabulary] = logits.dims();
        let of_all = activation::log_softmax(logits.reshape([batch * seq_len, vocabulary]), 1);
        Ok(of_all.gather(1, next.reshape([batch * seq_len, 1])).mean().neg())
    }

    fn head(&self, x: Tensor<3>) -> Tensor<3> {
        let embedding = self.embedding.weight.val().transpose();
        self.norm.forward(x).matmul(embedding.unsqueeze())
    }
}

impl Layer {
    fn mlp(&self, x: Tensor<3>) -> Tensor<3> {
        let up = self.up.forward(self.mlp_norm.forward(x.clone()));
        x + self.down.forward(activation::silu(up))
    }
}

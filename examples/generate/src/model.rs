//! The model: its weights, and the operations that make logits of tokens.

use linear_attention::Config;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use safetensors::SafeTensors;
use safetensors::tensor::Dtype;
use serde::Deserialize;

use crate::error::Error;

/// A language model of bytes, as `burn/examples/language_model` trains it: an embedding, layers of
/// attention and of an MLP, and the embedding again as the head.
///
/// ```text
/// x       = E[token]
/// x       = x + attention(norm(x))       in each layer
/// x       = x + silu(norm(x) W_up) W_down
/// logits  = norm(x) E^T
/// norm(x) = x / sqrt(mean(x²) + 1e-5) gamma
/// ```
#[derive(Debug)]
pub struct Model {
    pub(crate) sizes: Sizes,
    /// The config of each layer's attention.
    pub(crate) attentions: Vec<Config>,
    /// E, `[vocabulary,d_model]`.
    pub(crate) embedding: Vec<f32>,
    pub(crate) operations: Vec<Operation>,
}

/// The sizes of a model: the metadata `config` of its file.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Sizes {
    pub(crate) vocabulary: usize,
    pub(crate) d_model: usize,
    d_mlp: usize,
    pub(crate) heads: usize,
    layers: Vec<Rule>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
enum Rule {
    Linear,
    GatedDelta,
}

/// Rows that operations read and write: one for each token of a step or, of the last three, for
/// each of its sequences.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rows {
    Residual,
    Normed,
    Query,
    Key,
    Value,
    Decay,
    Beta,
    Attended,
    Hidden,
    Last,
    LastNormed,
    Logits,
}

impl Rows {
    pub(crate) const ALL: [Self; 12] = [
        Self::Residual,
        Self::Normed,
        Self::Query,
        Self::Key,
        Self::Value,
        Self::Decay,
        Self::Beta,
        Self::Attended,
        Self::Hidden,
        Self::Last,
        Self::LastNormed,
        Self::Logits,
    ];

    /// True for a row of each sequence.
    pub(crate) fn is_of_sequences(self) -> bool {
        matches!(self, Self::Last | Self::LastNormed | Self::Logits)
    }
}

/// An operation on all rows of a step, which ends before the next one begins.
#[derive(Debug)]
pub(crate) enum Operation {
    /// The rows of E that the tokens name.
    Embed { to: Rows },
    /// Each part of a row, as long as gamma, over its root mean square, times gamma.
    Norm { from: Rows, gamma: Vec<f32>, to: Rows },
    /// `to = activation(from W + bias)`, or `to += ..`.
    Linear { from: Rows, linear: Linear, to: Rows, adds: bool },
    /// Attention of a layer: from `Query`, `Key`, `Value`, `Decay` and `Beta` to `Attended`.
    Attend { layer: usize },
    /// The row of each sequence's last token.
    TakeLast { from: Rows, to: Rows },
}

#[derive(Debug)]
pub(crate) struct Linear {
    /// W, `[inputs,outputs]`.
    pub(crate) weights: Vec<f32>,
    /// `[outputs]`.
    pub(crate) bias: Vec<f32>,
    pub(crate) activation: Activation,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

#[derive(Debug)]
pub(crate) enum Activation {
    None,
    /// x sigmoid(x).
    Silu,
    Sigmoid,
    /// -rate softplus(x), with a rate for each output.
    Decay {
        rates: Vec<f32>,
    },
}

impl Model {
    /// The model of a safetensors file: f32 tensors, and the sizes as JSON in the metadata
    /// `config`.
    ///
    /// # Errors
    ///
    /// A file that is no such model; it names the tensor that is missing, of another shape, or not
    /// finite.
    pub fn from_safetensors(bytes: &[u8]) -> Result<Self, Error> {
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(Error::File)?;
        let metadata = header.metadata().as_ref().and_then(|all| all.get("config"));
        let sizes: Sizes = serde_json::from_str(metadata.ok_or(Error::NoSizes)?)?;
        sizes.check()?;
        let file = File { tensors: SafeTensors::deserialize(bytes).map_err(Error::File)? };
        file.model(sizes)
    }

    /// Elements of a row.
    pub(crate) fn width(&self, rows: Rows) -> usize {
        let Sizes { vocabulary, d_model, d_mlp, heads, .. } = self.sizes;
        match rows {
            Rows::Decay | Rows::Beta => heads,
            Rows::Hidden => d_mlp,
            Rows::Logits => vocabulary,
            _ => d_model,
        }
    }

    /// The number of different tokens.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.sizes.vocabulary
    }

    /// Bytes that the states of a conversation take in all layers, however long it is.
    ///
    /// # Errors
    ///
    /// A config out of range.
    pub fn state_bytes(&self) -> Result<u64, Error> {
        let heads = self.sizes.heads as u32;
        let of = |config| linear_attention::cpu::StatePool::state_size(config, heads);
        let sizes = self.attentions.iter().map(of).collect::<Result<Vec<_>, _>>()?;
        Ok(sizes.into_iter().sum())
    }

    /// Bytes of keys and values in f32 that softmax attention of the same layers and heads would
    /// keep for each token.
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> u64 {
        (self.attentions.len() * 2 * self.sizes.d_model * 4) as u64
    }
}

impl Sizes {
    fn check(&self) -> Result<(), Error> {
        let Self { vocabulary, d_model, d_mlp, heads, ref layers } = *self;
        let refuse = |what, required, actual: usize| Err(Error::Size { what, required, actual });
        if vocabulary != 256 {
            return refuse("vocabulary", "256, the bytes", vocabulary);
        }
        // The products of two fit in 32 bits.
        for (what, size) in [("d_model", d_model), ("d_mlp", d_mlp)] {
            if !(1..=4096).contains(&size) {
                return refuse(what, "1 to 4096", size);
            }
        }
        if heads == 0 || d_model % heads != 0 {
            return refuse("heads", "a divisor of d_model", heads);
        }
        if !(1..=64).contains(&layers.len()) {
            return refuse("layers", "1 to 64", layers.len());
        }
        Ok(())
    }

    fn attention(&self, rule: Rule) -> Config {
        let width = (self.d_model / self.heads) as u32;
        match rule {
            Rule::Linear => Config::of_rule(width, width, UpdateRule::Linear),
            Rule::GatedDelta => {
                let rule = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
                let scale = (width as f32).powf(-0.5);
                Config::of_rule(width, width, rule).with_l2_norm(true).with_scale(scale)
            }
        }
    }
}

struct File<'a> {
    tensors: SafeTensors<'a>,
}

impl File<'_> {
    fn model(&self, sizes: Sizes) -> Result<Model, Error> {
        let Sizes { vocabulary, d_model, d_mlp, heads, ref layers } = sizes;
        let embedding = self.read("embedding.weight", &[vocabulary, d_model])?;
        let mut operations = vec![Operation::Embed { to: Rows::Residual }];
        for (layer, rule) in layers.iter().enumerate() {
            let name = |part: &str| format!("layers.{layer}.{part}");
            let square = |part: &str| self.linear(&name(part), [d_model, d_model]);
            let norm = |from, part: &str, width, to| {
                let gamma = self.read(&name(part), &[width])?;
                Ok::<_, Error>(Operation::Norm { from, gamma, to })
            };
            let linear = |linear, to| {
                let (from, adds) = (Rows::Normed, false);
                Operation::Linear { from, linear, to, adds }
            };
            let add = |from, linear| {
                let (to, adds) = (Rows::Residual, true);
                Operation::Linear { from, linear, to, adds }
            };
            operations.push(norm(Rows::Residual, "attention_norm.gamma", d_model, Rows::Normed)?);
            operations.push(linear(square("attention.query")?, Rows::Query));
            operations.push(linear(square("attention.key")?, Rows::Key));
            operations.push(linear(square("attention.value")?, Rows::Value));
            let mut attended = Rows::Attended;
            if let Rule::GatedDelta = rule {
                let mut decay =
                    self.linear(&name("attention.decay.projection"), [d_model, heads])?;
                decay.bias = self.read(&name("attention.decay.dt_bias"), &[heads])?;
                let a_log = self.read(&name("attention.decay.a_log"), &[heads])?;
                let rates = a_log.iter().map(|x| x.exp()).collect();
                decay.activation = Activation::Decay { rates };
                operations.push(linear(decay, Rows::Decay));
                let mut beta = self.linear(&name("attention.beta"), [d_model, heads])?;
                beta.bias = self.read(&name("attention.beta.bias"), &[heads])?;
                beta.activation = Activation::Sigmoid;
                operations.push(linear(beta, Rows::Beta));
            }
            operations.push(Operation::Attend { layer });
            if let Rule::GatedDelta = rule {
                let of_head = d_model / heads;
                operations.push(norm(attended, "attention.norm.gamma", of_head, Rows::Normed)?);
                attended = Rows::Normed;
            }
            operations.push(add(attended, square("attention.output")?));
            operations.push(norm(Rows::Residual, "mlp_norm.gamma", d_model, Rows::Normed)?);
            let mut up = self.linear(&name("up"), [d_model, d_mlp])?;
            up.activation = Activation::Silu;
            operations.push(linear(up, Rows::Hidden));
            operations.push(add(Rows::Hidden, self.linear(&name("down"), [d_mlp, d_model])?));
        }
        let (from, to, adds) = (Rows::Residual, Rows::Last, false);
        operations.push(Operation::TakeLast { from, to });
        let gamma = self.read("norm.gamma", &[d_model])?;
        operations.push(Operation::Norm { from: Rows::Last, gamma, to: Rows::LastNormed });
        let transposed = (0..d_model).flat_map(|i| embedding.iter().skip(i).step_by(d_model));
        let head = Linear::new(transposed.copied().collect(), [d_model, vocabulary]);
        let (from, to) = (Rows::LastNormed, Rows::Logits);
        operations.push(Operation::Linear { from, linear: head, to, adds });
        let attentions = layers.iter().map(|rule| sizes.attention(*rule)).collect();
        Ok(Model { attentions, sizes, embedding, operations })
    }

    fn linear(&self, name: &str, sizes: [usize; 2]) -> Result<Linear, Error> {
        Ok(Linear::new(self.read(&format!("{name}.weight"), &sizes)?, sizes))
    }

    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let refuse = |actual: String| {
            let (name, required) = (name.to_owned(), format!("F32 {shape:?}, finite"));
            Err(Error::Tensor { name, required, actual })
        };
        match self.tensors.tensor(name) {
            Err(_) => refuse("none".to_owned()),
            Ok(found) if found.dtype() != Dtype::F32 || found.shape() != shape => {
                refuse(format!("{:?} {:?}", found.dtype(), found.shape()))
            }
            Ok(found) => {
                let (words, _) = found.data().as_chunks::<4>();
                let elements: Vec<f32> =
                    words.iter().map(|word| f32::from_le_bytes(*word)).collect();
                match elements.iter().position(|x| !x.is_finite()) {
                    Some(at) => refuse(format!("{} at element {at}", elements[at])),
                    None => Ok(elements),
                }
            }
        }
    }
}

impl Linear {
    /// Without a bias or an activation.
    fn new(weights: Vec<f32>, [inputs, outputs]: [usize; 2]) -> Self {
        let bias = vec![0.0; outputs];
        Self { weights, bias, activation: Activation::None, inputs, outputs }
    }
}

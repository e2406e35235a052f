//! ONNX's node tests of `LinearAttention` (opset 27): tests/data/README.md says where they are
//! from.

use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, Dtype, Inputs, Shape};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

const FILE: &[u8] = include_bytes!("../data/onnx/linear_attention.safetensors");

/// A node with its inputs and the outputs that it must have.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) config: Config,
    pub(crate) shape: Shape,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    past_state: Option<Vec<f32>>,
    decay: Option<Vec<f32>>,
    beta: Option<Vec<f32>>,
    output: Vec<f32>,
    present_state: Vec<f32>,
}

impl Case {
    /// The inputs as this crate takes them: packed heads are heads that lie side by side.
    pub(crate) fn inputs(&self) -> Inputs<'_> {
        let mut inputs = Inputs::new(&self.query, &self.key, &self.value);
        (inputs.decay, inputs.beta) = (self.decay.as_deref(), self.beta.as_deref());
        match &self.past_state {
            Some(mu) => inputs.with_initial_state(mu, &[]),
            None => inputs,
        }
    }

    /// The difference from the outputs of ONNX's reference, where it is more than the dtype allows.
    pub(crate) fn difference<T: Copy + Into<f64>>(&self, o: &[T], mu: &[T]) -> Option<String> {
        let tolerance = if self.config.dtype == Dtype::F32 { 1e-5 } else { 2e-3 };
        for (name, found, expected) in
            [("output", o, &self.output), ("present_state", mu, &self.present_state)]
        {
            if found.len() != expected.len() {
                return Some(format!("{name} has {} elements", found.len()));
            }
            let of = |(x, y): (&T, &f32)| ((*x).into() - f64::from(*y)).abs();
            let worst = found.iter().zip(expected).map(of).fold(0.0, f64::max);
            if worst.is_nan() || worst > tolerance {
                return Some(format!("{name} is off by {worst:e}"));
            }
        }
        None
    }
}

/// All 14.
pub(crate) fn cases() -> Vec<Case> {
    let file = SafeTensors::deserialize(FILE).unwrap();
    let (_, metadata) = SafeTensors::read_metadata(FILE).unwrap();
    let mut attributes: Vec<_> = metadata.metadata().as_ref().unwrap().iter().collect();
    attributes.sort_unstable();
    attributes.into_iter().map(|(name, attributes)| case(&file, name, attributes)).collect()
}

fn case(file: &SafeTensors<'_>, name: &str, attributes: &str) -> Case {
    let tensor = |tensor: &str| file.tensor(&format!("{name}/{tensor}")).ok();
    let [rule, scale, heads, kv_heads] =
        attributes.split(' ').collect::<Vec<_>>().try_into().unwrap();
    let (heads, kv_heads): (u32, u32) = (heads.parse().unwrap(), kv_heads.parse().unwrap());
    let (query, value) = (tensor("query").unwrap(), tensor("value").unwrap());
    let [batch, tokens, width] = query.shape().try_into().unwrap();
    let key_dim = width as u32 / heads;
    let value_dim = value.shape()[2] as u32 / kv_heads;
    let dtype = Dtype::from_name(&query.dtype().to_string()).unwrap();
    let decay = tensor("decay").map(|decay| match decay.shape()[2] as u32 == kv_heads {
        true => Decay::per_head().with_dtype(dtype),
        false => Decay::per_row().with_dtype(dtype),
    });
    let beta = tensor("beta").map(|beta| match beta.shape()[2] {
        1 => Beta::shared().with_dtype(dtype),
        _ => Beta::per_head().with_dtype(dtype),
    });
    let rule = match (rule, decay, beta) {
        ("linear", None, None) => UpdateRule::Linear,
        ("gated", Some(decay), None) => UpdateRule::Gated(decay),
        ("delta", None, Some(beta)) => UpdateRule::Delta(beta),
        ("gated_delta", Some(decay), Some(beta)) => UpdateRule::GatedDelta(decay, beta),
        _ => panic!("{name}: {attributes}"),
    };
    // A scale of 0 is the default, 1 / sqrt(K).
    let scale = match scale.parse().unwrap() {
        0.0 => (key_dim as f32).powf(-0.5),
        scale => scale,
    };
    let config = Config::of_rule(key_dim, value_dim, rule)
        .with_feature_map(linear_attention::FeatureMap::Identity)
        .with_normalization(linear_attention::Normalization::None)
        .with_scale(scale)
        .with_dtype(dtype);
    let numbers = |name: &str| tensor(name).map(|tensor| decode(dtype, &tensor));
    Case {
        name: name.to_owned(),
        config,
        shape: Shape::new(batch as u32, tokens as u32, heads).with_kv_heads(kv_heads),
        query: numbers("query").unwrap(),
        key: numbers("key").unwrap(),
        value: numbers("value").unwrap(),
        past_state: numbers("past_state"),
        decay: numbers("decay"),
        beta: numbers("beta"),
        output: numbers("output").unwrap(),
        present_state: numbers("present_state").unwrap(),
    }
}

fn decode(dtype: Dtype, tensor: &TensorView<'_>) -> Vec<f32> {
    let len = tensor.shape().iter().product();
    // The decoder takes whole words.
    let mut data = tensor.data().to_vec();
    data.resize(data.len().next_multiple_of(4), 0);
    dtype.decode(&data, len)
}

//! One map: its error against softmax, over all and over position, and its cost.

use linear_attention::feature_map::WeightsBuffer;
use linear_attention::serve::StatePool;
use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, Buffer, BufferUsages};
use linear_attention::{Config, FeatureMap, LinearAttention, Normalization, Tensors, reference};
use linear_attention_measure::Timer;
use serde::Serialize;

use crate::failure::Failure;
use crate::file::Input;

/// The device that times a map.
pub(crate) struct Device<'a> {
    pub(crate) timer: &'a Timer<'a>,
    pub(crate) iterations: u32,
}

/// The measurements of a map.
#[derive(Serialize)]
pub(crate) struct Compared {
    pub(crate) map: String,
    /// F.
    pub(crate) features: u32,
    /// `none`, `random` or `untrained`.
    pub(crate) weights: &'static str,
    /// Bytes of the state of a sequence.
    pub(crate) state_bytes: u64,
    /// Bytes of scratch of the call.
    scratch_bytes: Option<u64>,
    /// Of all outputs, the root of the mean square of the difference over that of softmax's.
    pub(crate) error: f64,
    /// The same of the tokens from a position, counted from 1, to twice that.
    pub(crate) over_position: Vec<(u32, f64)>,
    /// Microseconds a token, where a device computed.
    us_per_token: Option<f64>,
}

/// Positions that the table shows the error from.
const SHOWN: [u32; 4] = [1, 16, 128, 1024];

pub(crate) const LEGEND: &str = "\
error: root mean square of o less softmax's o, over that of softmax's o; of all tokens, and of
  those from a position to twice that
(equal weights): the mean of v so far, which knows nothing of q and k
weights: random, or untrained: what training begins with, so the error says little of the map
*: weights can be negative, and where they cancel the quotient has no meaning";

/// The config that compares: divided by the sum of weights, as softmax is, and by nothing else,
/// since weights may be of any size.
pub(crate) fn config(map: FeatureMap, key_dim: u32, value_dim: u32) -> Config {
    let mut config = Config::new(key_dim, value_dim);
    config.feature_map = map;
    let eps = 0.0;
    config.normalization = match config.is_non_negative() {
        true => Normalization::Sum { eps },
        false => Normalization::SignedSum { eps },
    };
    config
}

pub(crate) fn describe(config: &Config, input: &Input) -> String {
    let [mean, largest] = norms(config, input);
    let norms = format!("|q| |k| / K^(1/2) is {mean:.2} in the mean, {largest:.2} at most");
    format!("{}; {norms}", input.describe(config))
}

/// |q| |k| / K^(1/2) of the root mean squares of the lengths, and of the largest.
pub(crate) fn norms(config: &Config, input: &Input) -> [f64; 2] {
    let key_dim = config.key_dim as usize;
    let squares = |x: &[f32]| -> Vec<f64> {
        x.chunks(key_dim).map(|row| row.iter().map(|x| f64::from(*x).powi(2)).sum()).collect()
    };
    let [q, k] = [input.inputs().q, input.inputs().k].map(squares);
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let largest = |x: &[f64]| x.iter().copied().fold(0.0, f64::max);
    let of = |q: f64, k: f64| (q * k / key_dim as f64).sqrt();
    [of(mean(&q), mean(&k)), of(largest(&q), largest(&k))]
}

pub(crate) fn header() -> String {
    let [features, weights, state, error, cost] = ["F", "weights", "state B", "error", "us/token"];
    let at = SHOWN.map(|position| format!("{:>9}", format!("at {position}"))).concat();
    format!("{:<22}{features:>6}{weights:>11}{state:>12}{error:>10}{at}{cost:>12}", "map")
}

impl Compared {
    pub(crate) fn line(&self) -> String {
        let at = SHOWN.map(|position| {
            let found = self.over_position.iter().find(|(from, _)| *from == position);
            found.map_or_else(|| format!("{:>9}", "-"), |(_, error)| format!("{error:>9.3}"))
        });
        let cost = self.us_per_token.map_or_else(|| "-".to_owned(), |us| format!("{us:.2}"));
        format!(
            "{:<22}{:>6}{:>11}{:>12}{:>10.4}{}{cost:>12}",
            self.map,
            self.features,
            self.weights,
            self.state_bytes,
            self.error,
            at.concat(),
        )
    }
}

/// The error of attention that weighs all tokens alike, whose output is the mean of v so far: a map
/// that is no nearer to softmax than this does not select tokens.
pub(crate) fn equal_weights(config: &Config, input: &Input, truth: &[f64]) -> Compared {
    let shape = &input.shape;
    let [query_heads, value_heads] = [shape.heads, shape.value_heads].map(|n| n as usize);
    let heads = query_heads.max(value_heads);
    let width = config.value_dim as usize;
    let v = input.inputs().v;
    let mut o = Vec::with_capacity(truth.len());
    for tokens in shape.token_ranges().unwrap_or_default() {
        let mut sums = vec![0.0; value_heads * width];
        for (t, count) in tokens.zip(1u32..) {
            for (sum, v) in sums.iter_mut().zip(&v[t * value_heads * width..]) {
                *sum += f64::from(*v);
            }
            for h in 0..heads {
                let e = h / (heads / value_heads);
                let of_head = &sums[e * width..][..width];
                o.extend(of_head.iter().map(|sum| sum / f64::from(count)));
            }
        }
    }
    Compared {
        map: "(equal weights)".to_owned(),
        features: 1,
        weights: "none",
        state_bytes: 4 * (value_heads * (width + 1)) as u64,
        scratch_bytes: None,
        error: relative_error(&o, truth, |_| true, input),
        over_position: over_position(&o, truth, input),
        us_per_token: None,
    }
}

fn over_position(o: &[f64], truth: &[f64], input: &Input) -> Vec<(u32, f64)> {
    octaves(input).map(|from| (from, relative_error(o, truth, |t| t / from == 1, input))).collect()
}

/// Computes with one map and compares.
pub(crate) fn compare(
    config: &Config,
    input: &Input,
    truth: &[f64],
    device: Option<&Device<'_>>,
) -> Result<Compared, Failure> {
    let map = config.key_map();
    let weights = match map.projections(config.key_dim) {
        0 => "none",
        _ if map.is_random() => "random",
        _ => "untrained",
    };
    let mut inputs = input.inputs();
    inputs.initial_state = None;
    let (o, cost) = match device {
        None => (reference::recurrent(config, &input.shape, inputs)?.o, None),
        Some(device) => {
            let timed = Timed::new(config, input, device)?;
            let device = device.timer;
            let output = timed.attention.run(device.queue(), &input.shape, inputs)?;
            (output.o.into_iter().map(f64::from).collect(), Some(timed))
        }
    };
    let sign = if config.is_non_negative() { "" } else { " *" };
    let tokens = f64::from(input.shape.batch) * f64::from(input.shape.seq_len);
    Ok(Compared {
        map: format!("{map}{sign}"),
        features: config.features(),
        weights,
        state_bytes: StatePool::state_size(config, input.shape.value_heads)
            .map_err(|error| Failure::Input(error.to_string()))?,
        scratch_bytes: cost.as_ref().map(|cost| cost.scratch_bytes),
        error: relative_error(&o, truth, |_| true, input),
        over_position: over_position(&o, truth, input),
        us_per_token: cost.map(|cost| 1e6 * cost.seconds / tokens),
    })
}

/// 1, 2, 4 .. as far as a sequence has tokens.
fn octaves(input: &Input) -> impl Iterator<Item = u32> {
    let longest = input.shape.max_len();
    (0..32).map(|power| 1 << power).take_while(move |from| *from <= longest)
}

/// The error of the rows at positions that `is_wanted`, counted from 1 in each sequence.
fn relative_error(o: &[f64], truth: &[f64], is_wanted: impl Fn(u32) -> bool, input: &Input) -> f64 {
    let (mut error, mut all) = (0.0, 0.0);
    let width = truth.len() / (input.shape.batch as usize * input.shape.seq_len as usize);
    for tokens in input.shape.token_ranges().unwrap_or_default() {
        for (t, position) in tokens.zip(1..) {
            if is_wanted(position) {
                let row = t * width..(t + 1) * width;
                error += o[row.clone()]
                    .iter()
                    .zip(&truth[row.clone()])
                    .map(|(a, b)| (a - b).powi(2))
                    .sum::<f64>();
                all += truth[row].iter().map(|x| x * x).sum::<f64>();
            }
        }
    }
    (error / all).sqrt()
}

/// A call on the file's own q, k and v, bound and timed.
struct Timed {
    attention: LinearAttention,
    seconds: f64,
    scratch_bytes: u64,
}

impl Timed {
    fn new(config: &Config, input: &Input, on: &Device<'_>) -> Result<Self, Failure> {
        let (device, inputs) = (on.timer.device(), input.inputs());
        let attention = LinearAttention::new(device, config.clone())?;
        let split = attention.split(&input.shape)?;
        let usage = BufferUsages::STORAGE;
        let filled = |data: &[f32]| {
            let contents = &config.dtype.encode(data);
            let label = Some("linear-attention.input");
            device.create_buffer_init(&BufferInitDescriptor { label, contents, usage })
        };
        let empty = |size: u64| {
            let label = Some("linear-attention.output");
            let mapped_at_creation = false;
            device.create_buffer(&wgpu::BufferDescriptor { label, size, usage, mapped_at_creation })
        };
        let lens = input.shape.lens(config)?;
        let [q, k, v] = [inputs.q, inputs.k, inputs.v].map(filled);
        let o = empty(config.dtype.bytes(lens.o));
        let scratch = empty(split.scratch_size().max(4));
        // A call in parts carries its state on.
        let states = split.carries_state().then(|| empty(4 * lens.state));
        let weights = inputs
            .weights
            .map(|weights| WeightsBuffer::new(device, config, weights))
            .transpose()?;
        let mut tensors = Tensors::new(&q, &k, &v, &o);
        tensors.final_state = states.as_ref().map(Buffer::as_entire_buffer_binding);
        tensors.weights = weights.as_ref().map(WeightsBuffer::binding);
        let bound = attention
            .bind_split(&split, &tensors, Some(scratch.as_entire_buffer_binding()))
            .map_err(linear_attention::Error::from)?;
        let record = |pass: &mut wgpu::ComputePass<'_>| attention.dispatch(pass, &bound);
        let seconds = on.timer.brief_median(on.iterations as usize, &record)?;
        Ok(Self { attention, seconds, scratch_bytes: split.scratch_size() })
    }
}

//! A call cut into pieces of its tokens, which one machine or several compute one by one.
#![allow(dead_code, reason = "not all that include it have a backward pass")]

use std::ops::Range;

use linear_attention::gradients::Gradients;
use linear_attention::shape::{Strides, TensorStrides};
use linear_attention::update_rule::DecayDims;
use linear_attention::{Config, Inputs, Output, Shape};

/// Some tokens of each sequence of a call, packed.
pub(crate) struct Piece {
    pub(crate) shape: Shape,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    pub(crate) decay: Vec<f32>,
    pub(crate) beta: Vec<f32>,
    /// The rows of its tokens in the whole call.
    tokens: Vec<usize>,
}

impl Piece {
    /// Piece `index` of `count`. They are of unequal length, and some may be empty: tokens of
    /// packed sequences are cut as they lie side by side, others in each sequence.
    pub(crate) fn new(
        config: &Config,
        shape: &Shape,
        inputs: Inputs<'_>,
        (index, count): (usize, usize),
    ) -> Self {
        let ranges = shape.token_ranges().unwrap();
        let all: usize = ranges.iter().map(Range::len).sum();
        let end = |of: usize, index: usize| of * index * (index + 2) / (count * (count + 2));
        let is_packed = shape.batch == 1 && shape.sequences() > 1;
        let mut first = 0;
        let cut = |range: &Range<usize>| {
            let len = range.len();
            let of = |index: usize| match is_packed {
                true => end(all, index).clamp(first, first + len) - first,
                false => end(len, index),
            };
            let part = range.start + of(index)..range.start + of(index + 1);
            first += len;
            part
        };
        let parts: Vec<Range<usize>> = ranges.iter().map(cut).collect();
        let lengths: Vec<u32> = parts.iter().map(|part| part.len() as u32).collect();
        let tokens: Vec<usize> = parts.into_iter().flatten().collect();
        let strides = strides(config, shape);
        let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
        let gather = |x: &[f32], strides: Strides, heads: u32, width: usize| -> Vec<f32> {
            let rows = tokens.iter().flat_map(|t| (0..heads).map(move |head| (*t, head)));
            rows.flat_map(|(t, head)| x[begin(shape, strides, t, head)..][..width].to_vec())
                .collect()
        };
        let of_tokens = |x: Option<&[f32]>| -> Vec<f32> {
            let x = x.unwrap_or_default();
            let row = x.len() / (shape.batch * shape.seq_len).max(1) as usize;
            tokens.iter().flat_map(|t| x[t * row..(t + 1) * row].to_vec()).collect()
        };
        let decay = match has_constant_decay(config) {
            true => inputs.decay.unwrap_or_default().to_vec(),
            false => of_tokens(inputs.decay),
        };
        Self {
            shape: Shape::packed(&lengths, shape.heads)
                .with_key_heads(shape.key_heads)
                .with_value_heads(shape.value_heads),
            q: gather(inputs.q, strides.q, shape.heads, key_dim),
            k: gather(inputs.k, strides.k, shape.key_heads, key_dim),
            v: gather(inputs.v, strides.v, shape.value_heads, value_dim),
            decay,
            beta: of_tokens(inputs.beta),
            tokens,
        }
    }

    /// Its inputs from zero, with the weights of the whole call.
    pub(crate) fn inputs<'a>(&'a self, whole: Inputs<'a>) -> Inputs<'a> {
        let mut inputs = Inputs::new(&self.q, &self.k, &self.v).with_weights(whole.weights);
        inputs.decay = whole.decay.map(|_| &self.decay[..]);
        inputs.beta = whole.beta.map(|_| &self.beta[..]);
        inputs.gate_weights = whole.gate_weights;
        inputs
    }

    /// The part of a tensor like o.
    pub(crate) fn of_o(&self, config: &Config, shape: &Shape, o: &[f32]) -> Vec<f32> {
        let width = config.value_dim as usize;
        self.rows_of_o(config, shape).flat_map(|begin| o[begin..][..width].to_vec()).collect()
    }

    /// Puts its rows of o where they are in the whole call.
    pub(crate) fn put_o(&self, config: &Config, shape: &Shape, o: &[f32], to: &mut [f32]) {
        let width = config.value_dim as usize;
        for (begin, row) in self.rows_of_o(config, shape).zip(o.chunks(width)) {
            to[begin..][..width].copy_from_slice(row);
        }
    }

    fn rows_of_o(&self, config: &Config, shape: &Shape) -> impl Iterator<Item = usize> {
        let strides = strides(config, shape).o;
        let heads = shape.output_heads();
        let rows = self.tokens.iter().flat_map(move |t| (0..heads).map(move |head| (*t, head)));
        rows.map(move |(t, head)| begin(shape, strides, t, head))
    }

    /// Puts its gradients where they are in those of the whole call, which is contiguous, and adds
    /// up those of what all tokens share, or takes them where `are_sums`.
    pub(crate) fn put_gradients(
        &self,
        config: &Config,
        shape: &Shape,
        found: &Gradients<f32>,
        (to, are_sums): (&mut Gradients<f32>, bool),
    ) {
        let count = (shape.batch * shape.seq_len) as usize;
        let put = |from: &[f32], to: &mut Vec<f32>| {
            let row = from.len() / self.tokens.len().max(1);
            to.resize(to.len().max(count * row), 0.0);
            for (t, from) in self.tokens.iter().zip(from.chunks(row.max(1))) {
                to[t * row..(t + 1) * row].copy_from_slice(from);
            }
        };
        let add = |from: &[f32], to: &mut Vec<f32>| {
            to.resize(from.len(), 0.0);
            to.iter_mut().zip(from).for_each(|(to, x)| *to = if are_sums { *x } else { *to + x });
        };
        put(&found.q, &mut to.q);
        put(&found.k, &mut to.k);
        put(&found.v, &mut to.v);
        match has_constant_decay(config) {
            true => add(&found.decay, &mut to.decay),
            false => put(&found.decay, &mut to.decay),
        }
        put(&found.beta, &mut to.beta);
        add(&found.a_log, &mut to.a_log);
        add(&found.dt_bias, &mut to.dt_bias);
        let weights = found.key_weights.iter().chain(&found.query_weights);
        let sums = to.key_weights.iter_mut().chain(&mut to.query_weights);
        weights.zip(sums).for_each(|(from, to)| add(from, to));
    }
}

/// Of a call without tokens: what becomes of its states is the caller's.
pub(crate) fn zeros(config: &Config, shape: &Shape) -> Output {
    Output::zeros(&shape.lens(config).unwrap())
}

fn has_constant_decay(config: &Config) -> bool {
    config.update_rule.decay().is_some_and(|decay| decay.dims == DecayDims::Constant)
}

fn strides(config: &Config, shape: &Shape) -> TensorStrides {
    shape.strides.unwrap_or_else(|| TensorStrides::contiguous(config, shape))
}

/// The first element of a row.
fn begin(shape: &Shape, strides: Strides, t: usize, head: u32) -> usize {
    let seq_len = shape.seq_len.max(1) as usize;
    let [offset, batch, token, head_stride] =
        [strides.offset, strides.batch, strides.token, strides.head].map(|n| n as usize);
    offset + t / seq_len * batch + t % seq_len * token + head as usize * head_stride
}

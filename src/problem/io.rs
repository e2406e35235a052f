//! The inputs and outputs of a call as slices.

use std::borrow::Cow;
use std::ops::Range;

use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::phi::Phi;
use crate::problem::feature_map::weights::Weights;
use crate::problem::heads::Heads;
use crate::problem::shape::{Lens, Shape};
use crate::problem::state::StateSlices;
use crate::problem::tensor::Tensor;

/// The inputs of a call as slices, row-major. q, k and v are rounded to
/// [`Config::dtype`](crate::Config::dtype) before anything is computed, decay and beta to the type that
/// the update rule gives them.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Inputs<'a> {
    /// q `[B,T,H,K]`.
    pub q: &'a [f32],
    /// k `[B,T,G,K]`.
    pub k: &'a [f32],
    /// v `[B,T,E,V]`.
    pub v: &'a [f32],
    /// The decays in log space, or what an activation makes decays of: `[E]`, `[B,T,E]` or
    /// `[B,T,E,F]`, where the update rule has any. `-inf` forgets the state.
    pub decay: Option<&'a [f32]>,
    /// beta `[B,T,E]` or `[B,T,1]`, where the update rule has it.
    pub beta: Option<&'a [f32]>,
    /// The weights of the decays' activation, where they have one.
    pub gate_weights: Option<GateWeights<'a>>,
    /// The state before the first token; `None` is zero.
    pub initial_state: Option<StateSlices<'a>>,
    /// The weights of the feature maps, where they need any.
    pub weights: Option<&'a Weights>,
}

impl<'a> Inputs<'a> {
    /// From a zero state.
    #[must_use]
    pub fn new(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self {
            q,
            k,
            v,
            decay: None,
            beta: None,
            gate_weights: None,
            initial_state: None,
            weights: None,
        }
    }

    /// With the decays of the update rule.
    #[must_use]
    pub fn with_decay(self, decay: &'a [f32]) -> Self {
        Self { decay: Some(decay), ..self }
    }

    /// With the betas of the update rule.
    #[must_use]
    pub fn with_beta(self, beta: &'a [f32]) -> Self {
        Self { beta: Some(beta), ..self }
    }

    /// With the weights of the decays' activation: `A_log` `[E]`, `dt_bias` `[E]` or `[E,F]`.
    #[must_use]
    pub fn with_gate_weights(self, a_log: &'a [f32], dt_bias: &'a [f32]) -> Self {
        Self { gate_weights: Some(GateWeights { a_log, dt_bias }), ..self }
    }

    /// From the state that an earlier call ended with. `nu` is empty where o is not normalised.
    #[must_use]
    pub fn with_initial_state(self, mu: &'a [f32], nu: &'a [f32]) -> Self {
        Self { initial_state: Some(StateSlices { mu, nu }), ..self }
    }

    /// With the weights of the feature maps, if they have any.
    #[must_use]
    pub fn with_weights(self, weights: impl Into<Option<&'a Weights>>) -> Self {
        Self { weights: weights.into(), ..self }
    }

    /// Checks the slices. Every slice has the length that the shape asks for (q, k and v at least
    /// that, where they have strides). Every element is finite, also as the config's dtype stores
    /// it; only a decay may be -inf, and padding may be anything. The weights are those that the
    /// maps need. Decay, beta and their weights are there where the update rule has them, and only
    /// there. Every feature φ(k) is finite in f32. Where o is an average, the first key of a
    /// sequence does not vanish in f32 either. A query may be of any size where o is normalised.
    ///
    /// # Errors
    ///
    /// A config or shape that no call accepts; [`Error::Len`], [`Error::NonFinite`],
    /// [`Error::KeyFeature`], [`Error::KeyVanishes`], [`Error::Weights`], [`Error::RuleTensor`] or
    /// [`Error::Gate`], naming the first that fails.
    pub fn check(&self, config: &Config, shape: &Shape) -> Result<(), Error> {
        self.check_by(config, shape, largest_bits)
    }

    /// The same, with a way to find what [`largest_bits`] finds.
    pub(crate) fn check_by(
        &self,
        config: &Config,
        shape: &Shape,
        largest_bits: impl Fn(&[f32]) -> u32 + Copy,
    ) -> Result<(), Error> {
        config.validate()?;
        let lens = shape.lens(config)?;
        for (tensor, slice, required) in
            [(Tensor::Q, self.q, lens.q), (Tensor::K, self.k, lens.k), (Tensor::V, self.v, lens.v)]
        {
            if !(shape.strides.is_some() && slice.len() as u64 > required) {
                check_len(tensor.name(), slice, required)?;
            }
            for elements in elements(config, shape, tensor, slice.len()) {
                check_finite((tensor.name(), slice, elements), config.dtype, largest_bits)?;
            }
        }
        if let Some(StateSlices { mu, nu }) = self.initial_state {
            for (name, slice, required) in
                [("initial_mu", mu, lens.mu), ("initial_nu", nu, lens.nu)]
            {
                check_len(name, slice, required)?;
                check_finite((name, slice, 0..slice.len()), Dtype::F32, largest_bits)?;
            }
        }
        self.check_gates(config, shape, &lens)?;
        self.weights.unwrap_or(&Weights::default()).check(config, shape)?;
        self.check_key_features(config, shape)
    }

    fn check_key_features(&self, config: &Config, shape: &Shape) -> Result<(), Error> {
        let [_, k, _] = self.rounded(config.dtype);
        let rows = Heads::new(config, shape).k;
        let key_heads = shape.key_heads as usize;
        let tokens = shape.token_ranges().unwrap_or_default().into_iter().flatten();
        let all = tokens.flat_map(|t| (0..key_heads).map(move |head| (t, head)));
        let row = |(t, head)| &k[rows.begin(t, head)..][..config.key_dim as usize];
        let found = Phi::of_keys(config, self.weights)
            .non_finite_feature(key_heads, all.map(|of| (of, row(of))));
        match found {
            Some(((token, head), feature, actual)) => {
                let [token, head, feature] = [token, head, feature].map(|n| n as u64);
                Err(Error::KeyFeature { token, head, feature, actual: actual.to_string() })
            }
            None => self.check_vanishing(config, shape, &k),
        }
    }

    /// Refuses keys that vanish before any other: rows of o, which are averages of their values,
    /// would be 0. Behind one that does not they weigh nothing.
    fn check_vanishing(&self, config: &Config, shape: &Shape, k: &[f32]) -> Result<(), Error> {
        if config.normalization.eps() != Some(0.0) {
            return Ok(());
        }
        let phi = Phi::of_keys(config, self.weights);
        let heads = Heads::new(config, shape);
        let len = config.features() as usize;
        let (mut stored, mut exact) = (vec![0.0f32; len], vec![0.0f64; len]);
        let is_there = |x: &f32| x.abs() >= f32::MIN_POSITIVE;
        // Far from the origin these vanish in f64 as well; a very negative element of other maps
        // may be meant as no weight.
        let is_positive = matches!(
            config.key_map(),
            FeatureMap::Favor { .. } | FeatureMap::FavorHyperbolic { .. }
        );
        for (n, tokens) in shape.token_ranges().unwrap_or_default().into_iter().enumerate() {
            for head in 0..heads.key {
                let group = heads.value / heads.key;
                let states = n * heads.value + head * group..n * heads.value + (head + 1) * group;
                let before = self.initial_state.map(|state| state.nu);
                if before
                    .is_some_and(|nu| nu[states.start * len..states.end * len].iter().any(is_there))
                {
                    continue;
                }
                for t in tokens.clone() {
                    let x = &k[heads.k.begin(t, head)..][..config.key_dim as usize];
                    phi.row(x, head, &mut stored);
                    if stored.iter().any(is_there) {
                        break;
                    }
                    phi.row(x, head, &mut exact);
                    if is_positive || exact.iter().any(|x| *x != 0.0) {
                        let (token, head) = (t as u64, head as u64);
                        return Err(Error::KeyVanishes { token, head });
                    }
                }
            }
        }
        Ok(())
    }

    fn check_gates(&self, config: &Config, shape: &Shape, lens: &Lens) -> Result<(), Error> {
        let rule = config.update_rule;
        let weights = self.gate_weights;
        let (value_heads, rows) = (u64::from(shape.value_heads), u64::from(config.decay_rows()));
        let slices = [
            (Tensor::Decay, "decay", self.decay, lens.decay, rule.decay().is_some()),
            (Tensor::Beta, "beta", self.beta, lens.beta, rule.beta().is_some()),
            (
                Tensor::GateWeights,
                "A_log",
                weights.map(|weights| weights.a_log),
                value_heads,
                rule.needs_gate_weights(),
            ),
            (
                Tensor::GateWeights,
                "dt_bias",
                weights.map(|weights| weights.dt_bias),
                value_heads * rows,
                rule.needs_gate_weights(),
            ),
        ];
        for (of, tensor, slice, required, is_used) in slices {
            let rule = rule.name();
            let slice = match slice {
                Some(_) if !is_used => {
                    let (tensor, required, actual) = (of.name(), "absent", "some");
                    return Err(Error::RuleTensor { rule, tensor, required, actual });
                }
                None if is_used => {
                    let (tensor, required, actual) = (of.name(), "given", "none");
                    return Err(Error::RuleTensor { rule, tensor, required, actual });
                }
                None => continue,
                Some(slice) => slice,
            };
            check_len(tensor, slice, required)?;
            let may_forget = of == Tensor::Decay && !config.update_rule.needs_gate_weights();
            let dtype = of.dtype(config);
            let is_bad = |x: &f32| {
                let x = dtype.round(*x);
                !(x.is_finite() || (may_forget && x == f32::NEG_INFINITY))
            };
            let elements = elements(config, shape, of, slice.len());
            let first = |is_bad: &dyn Fn(&f32) -> bool| {
                elements.iter().cloned().flatten().find(|index| is_bad(&slice[*index]))
            };
            if let Some(index) = first(&is_bad) {
                let actual = slice[index].to_string();
                if of == Tensor::GateWeights {
                    return Err(Error::NonFinite { tensor, index: index as u64, actual });
                }
                let required = if may_forget { "finite or -inf" } else { "finite" };
                return Err(gate_error(config, shape, of, required, actual, index));
            }
            let refuses_positive = may_forget
                && config.update_rule.decay().is_some_and(|decay| decay.refuses_positive);
            if refuses_positive && let Some(index) = first(&|x| *x > 0.0) {
                let actual = slice[index].to_string();
                return Err(gate_error(config, shape, of, "at most 0", actual, index));
            }
        }
        Ok(())
    }

    /// q, k and v as a dtype stores them.
    pub(crate) fn rounded(&self, dtype: Dtype) -> [Cow<'_, [f32]>; 3] {
        [self.q, self.k, self.v].map(|x| match dtype {
            Dtype::F32 => Cow::Borrowed(x),
            _ => x.iter().map(|x| dtype.round(*x)).collect(),
        })
    }
}

/// The elements of a slice that a call reads: all of them but those of padding and, where rows are
/// not contiguous, those between them.
pub(crate) fn elements(
    config: &Config,
    shape: &Shape,
    tensor: Tensor,
    len: usize,
) -> Vec<Range<usize>> {
    let is_constant =
        tensor == Tensor::GateWeights || (tensor == Tensor::Decay && config.has_constant_decay());
    let ranges = shape.token_ranges().filter(|_| !is_constant);
    let heads = Heads::new(config, shape);
    let (rows, count, width) = match tensor {
        Tensor::Q => (heads.q, shape.heads, config.key_dim),
        Tensor::K => (heads.k, shape.key_heads, config.key_dim),
        Tensor::V => (heads.v, shape.value_heads, config.value_dim),
        _ => (heads.o, shape.output_heads(), config.value_dim),
    };
    let is_strided = shape.strides.is_some_and(|strides| strides.get(tensor).is_some());
    // `lens` has accepted the length.
    let row_len = tensor.row_len(config, shape).unwrap_or(0) as usize;
    let of_tokens = |tokens: Range<usize>| tokens.start * row_len..tokens.end * row_len;
    match ranges {
        Some(ranges) if is_strided => {
            let of_token = |t: usize| (0..count as usize).map(move |head| rows.begin(t, head));
            let begins = ranges.into_iter().flatten().flat_map(of_token);
            begins.map(|begin| begin..begin + width as usize).collect()
        }
        Some(ranges) if shape.is_padded() && len > 0 => ranges.into_iter().map(of_tokens).collect(),
        _ => std::iter::once(0..len).collect(),
    }
}

fn check_len(tensor: &'static str, slice: &[f32], required: u64) -> Result<(), Error> {
    let actual = slice.len() as u64;
    if actual == required { Ok(()) } else { Err(Error::Len { tensor, required, actual }) }
}

fn check_finite(
    (tensor, slice, elements): (&'static str, &[f32], Range<usize>),
    dtype: Dtype,
    largest_bits: impl Fn(&[f32]) -> u32,
) -> Result<(), Error> {
    let begin = elements.start;
    let elements = &slice[elements];
    // A larger element does not round to a smaller one.
    if dtype.round(f32::from_bits(largest_bits(elements))).is_finite() {
        return Ok(());
    }
    let refuse = |index: usize, actual: String| {
        Err(Error::NonFinite { tensor, index: (begin + index) as u64, actual })
    };
    if let Some(index) = elements.iter().position(|x| !x.is_finite()) {
        return refuse(index, elements[index].to_string());
    }
    if let Some(index) = elements.iter().position(|x| !dtype.round(*x).is_finite()) {
        return refuse(index, format!("{}, infinite in {}", elements[index], dtype.name()));
    }
    Ok(())
}

/// The bits of the largest magnitude. Bits without a sign are in the order of their values, and NaN
/// is above all.
pub(crate) fn largest_bits(slice: &[f32]) -> u32 {
    // In sixteen lanes of signed numbers, which the vectors of every CPU compare.
    const N: usize = 16;
    let magnitude = |x: f32| x.abs().to_bits() as i32;
    let (rows, rest) = slice.as_chunks::<N>();
    let mut largest = [0i32; N];
    for x in rows {
        for i in 0..N {
            largest[i] = largest[i].max(magnitude(x[i]));
        }
    }
    let of_rest = rest.iter().map(|x| magnitude(*x));
    largest.into_iter().chain(of_rest).fold(0, i32::max) as u32
}

/// The refusal of element `index` of decay or beta.
fn gate_error(
    config: &Config,
    shape: &Shape,
    tensor: Tensor,
    required: &'static str,
    actual: String,
    index: usize,
) -> Error {
    // `lens` has accepted both lengths.
    let per_token = tensor.row_len(config, shape).unwrap_or(1).max(1);
    let rows = if tensor == Tensor::Decay { config.decay_rows().max(1) } else { 1 };
    let (token, rest) = (index as u64 / per_token, index as u64 % per_token);
    let head = rest / u64::from(rows);
    Error::Gate { tensor: tensor.name(), required, actual, token, head }
}

/// The weights of an activation of decays.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a literal names both, and there are no more")]
pub struct GateWeights<'a> {
    /// `A_log` `[E]`: the logarithm of what multiplies a decay of a head.
    pub a_log: &'a [f32],
    /// `dt_bias` `[E]`, or `[E,F]` with a decay for each row: added before the function.
    pub dt_bias: &'a [f32],
}

impl GateWeights<'_> {
    /// Both as a buffer holds them.
    pub(crate) fn joined(&self) -> Vec<f32> {
        [self.a_log, self.dt_bias].concat()
    }
}

/// The output of a call.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// o `[B,T,max(H,E),V]`, from a device as [`Config::dtype`](crate::Config::dtype) stores it.
    pub o: Vec<f32>,
    /// The final mu `[N,E,F,V]`.
    pub mu: Vec<f32>,
    /// The final nu `[N,E,F]`; empty where o is not normalised.
    pub nu: Vec<f32>,
}

impl Output {
    /// Zeros, for a call of this shape to write into.
    #[must_use]
    pub fn zeros(lens: &Lens) -> Self {
        let zeros = |len: u64| vec![0.0; len as usize];
        Self { o: zeros(lens.o), mu: zeros(lens.mu), nu: zeros(lens.nu) }
    }

    pub(crate) fn new(o: Vec<f32>, mu: Vec<f32>, nu: Vec<f32>) -> Self {
        Self { o, mu, nu }
    }
}

//! The inputs and outputs of a call as slices.

use std::borrow::Cow;

use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::phi::Phi;
use crate::problem::feature_map::weights::Weights;
use crate::problem::shape::Shape;
use crate::problem::state::StateSlices;
use crate::problem::tensor::Tensor;

/// The inputs of a call as slices, row-major. q, k and v are rounded to
/// [`Config::dtype`](crate::Config::dtype) before anything is computed.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Inputs<'a> {
    /// q `[B,T,H,K]`.
    pub q: &'a [f32],
    /// k `[B,T,G,K]`.
    pub k: &'a [f32],
    /// v `[B,T,E,V]`.
    pub v: &'a [f32],
    /// The state before the first token; `None` is zero.
    pub initial_state: Option<StateSlices<'a>>,
    /// The weights of the feature maps, where they need any.
    pub weights: Option<&'a Weights>,
}

impl<'a> Inputs<'a> {
    /// From a zero state.
    #[must_use]
    pub fn new(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self { q, k, v, initial_state: None, weights: None }
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

    /// Checks the slices: every slice has the length that the shape asks for, every
    /// element is finite, also as the config's dtype stores it, the weights are those that the maps
    /// need, and every feature φ(k) is finite in f32. (A query may be of any size where o is
    /// normalised.)
    ///
    /// # Errors
    ///
    /// A config or shape that no call accepts; [`Error::Len`], [`Error::NonFinite`] or
    /// [`Error::Weights`], naming the first that fails.
    pub fn check(&self, config: &Config, shape: &Shape) -> Result<(), Error> {
        config.validate()?;
        let lens = shape.lens(config)?;
        let mut slices = vec![
            (Tensor::Q.name(), self.q, lens.q, config.dtype),
            (Tensor::K.name(), self.k, lens.k, config.dtype),
            (Tensor::V.name(), self.v, lens.v, config.dtype),
        ];
        if let Some(initial_state) = self.initial_state {
            slices.push(("initial_mu", initial_state.mu, lens.mu, Dtype::F32));
            slices.push(("initial_nu", initial_state.nu, lens.nu, Dtype::F32));
        }
        for (tensor, slice, required, dtype) in slices {
            if slice.len() as u64 != required {
                return Err(Error::Len { tensor, required, actual: slice.len() as u64 });
            }
            if let Some(index) = slice.iter().position(|x| !x.is_finite()) {
                let actual = slice[index].to_string();
                return Err(Error::NonFinite { tensor, index: index as u64, actual });
            }
            if let Some(index) = slice.iter().position(|x| !dtype.round(*x).is_finite()) {
                let actual = format!("{}, infinite in {}", slice[index], dtype.name());
                return Err(Error::NonFinite { tensor, index: index as u64, actual });
            }
        }
        self.weights.unwrap_or(&Weights::default()).check(config, shape)?;
        let phi = Phi::of_keys(config, self.weights);
        let [_, k, _] = self.rounded(config.dtype);
        match phi.non_finite_feature(&k, shape.key_heads as usize) {
            None => Ok(()),
            Some((index, feature)) => {
                let (index, actual) = (index as u64, feature.to_string());
                Err(Error::NonFinite { tensor: "phi(k)", index, actual })
            }
        }
    }

    /// q, k and v as a dtype stores them.
    pub(crate) fn rounded(&self, dtype: Dtype) -> [Cow<'_, [f32]>; 3] {
        [self.q, self.k, self.v].map(|x| match dtype {
            Dtype::F32 => Cow::Borrowed(x),
            _ => x.iter().map(|x| dtype.round(*x)).collect(),
        })
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
    pub(crate) fn new(o: Vec<f32>, mu: Vec<f32>, nu: Vec<f32>) -> Self {
        Self { o, mu, nu }
    }
}

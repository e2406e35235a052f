//! The tensors of a call.

use burn::backend::DispatchTensor;
use burn::tensor::Tensor;
use linear_attention::Config;
use linear_attention::feature_map::WeightHeads;

use crate::error::Error;
use crate::weights::{self, Affine};

/// The input tensors of a call.
///
/// | tensor | dimensions | type |
/// | --- | --- | --- |
/// | q | `[B,T,H,K]` | f32, f16 or bf16 |
/// | k | `[B,T,G,K]` | that of q |
/// | v | `[B,T,E,V]` | that of q |
/// | decay | `[E]`, `[B,T,E]` or `[B,T,E,F]`, in log space | f32 or that of q |
/// | beta | `[B,T,E]` or `[B,T,1]` | f32 or that of q |
/// | initial state | `[B,state]` | f32 |
/// | weight of keys, of queries | `[1,P,K]`, `[G,P,K]` or `[H,P,K]` | f32 |
/// | bias of keys, of queries | `[1,P]`, `[G,P]` or `[H,P]` | f32 |
///
/// B sequences have T tokens each, H query heads, G key heads and E value heads: G divides E, and E
/// divides H or is a multiple of it. A state is mu `[E,F,V]` and then, where o is normalised, nu
/// `[E,F]`, as the core crate's buffers have it.
///
/// A feature map with weights is a function of y = W x + b, with P projections of a row of K
/// elements: `FeatureMap::projections`. The weights are those of all heads, or of each key head and
/// of each query head.
#[derive(Clone, Debug)]
pub struct Inputs {
    tensors: Parts<DispatchTensor>,
    key_weights: Option<Affine>,
    query_weights: Option<Affine>,
}

impl Inputs {
    /// From a zero state.
    #[must_use]
    pub fn new(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Self {
        let [q, k, v] = [q, k, v].map(Tensor::into_dispatch);
        let (decay, beta, initial_state, weights) = (None, None, None, None);
        let tensors = Parts { q, k, v, decay, beta, initial_state, weights };
        Self { tensors, key_weights: None, query_weights: None }
    }

    /// With the decays of the update rule: D is 1, 3 or 4, as `DecayDims` says.
    #[must_use]
    pub fn with_decay<const D: usize>(mut self, decay: Tensor<D>) -> Self {
        self.tensors.decay = Some(decay.into_dispatch());
        self
    }

    /// With the betas of the update rule.
    #[must_use]
    pub fn with_beta(mut self, beta: Tensor<3>) -> Self {
        self.tensors.beta = Some(beta.into_dispatch());
        self
    }

    /// From the states that an earlier call ended with.
    #[must_use]
    pub fn with_initial_state(mut self, initial_state: Tensor<2>) -> Self {
        self.tensors.initial_state = Some(initial_state.into_dispatch());
        self
    }

    /// With W and b of the feature map of keys; b is 0 for `None`. They are those of queries, too,
    /// where these have none of their own: a query then has those of the key head that it reads.
    #[must_use]
    pub fn with_key_weights(mut self, weight: Tensor<3>, bias: Option<Tensor<2>>) -> Self {
        self.key_weights = Some(Affine { weight, bias });
        self
    }

    /// With W and b of the feature map of queries.
    #[must_use]
    pub fn with_query_weights(mut self, weight: Tensor<3>, bias: Option<Tensor<2>>) -> Self {
        self.query_weights = Some(Affine { weight, bias });
        self
    }

    /// The tensors as a backend gets them, with the weights in one.
    pub(crate) fn into_parts(
        self,
        config: &Config,
    ) -> Result<(Parts<DispatchTensor>, WeightHeads), Error> {
        config.validate()?;
        let (packed, heads) = weights::pack(config, self.key_weights, self.query_weights)?;
        Ok((Parts { weights: packed.map(Tensor::into_dispatch), ..self.tensors }, heads))
    }
}

/// The inputs of a call, or their gradients, as whatever tensors are on the way to a backend.
#[derive(Clone, Debug)]
pub(crate) struct Parts<T> {
    pub(crate) q: T,
    pub(crate) k: T,
    pub(crate) v: T,
    pub(crate) decay: Option<T>,
    pub(crate) beta: Option<T>,
    pub(crate) initial_state: Option<T>,
    /// Those of feature maps, as `weights` packs them.
    pub(crate) weights: Option<T>,
}

/// The outputs of a call, or their gradients.
#[derive(Clone, Debug)]
pub(crate) struct Outputs<T> {
    pub(crate) o: T,
    pub(crate) state: Option<T>,
}

impl<T> Parts<T> {
    pub(crate) fn as_ref(&self) -> Parts<&T> {
        Parts {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            decay: self.decay.as_ref(),
            beta: self.beta.as_ref(),
            initial_state: self.initial_state.as_ref(),
            weights: self.weights.as_ref(),
        }
    }

    pub(crate) fn try_map<U, E>(
        self,
        mut f: impl FnMut(&'static str, T) -> Result<U, E>,
    ) -> Result<Parts<U>, E> {
        Ok(Parts {
            q: f("q", self.q)?,
            k: f("k", self.k)?,
            v: f("v", self.v)?,
            decay: self.decay.map(|x| f("decay", x)).transpose()?,
            beta: self.beta.map(|x| f("beta", x)).transpose()?,
            initial_state: self.initial_state.map(|x| f("initial_state", x)).transpose()?,
            weights: self.weights.map(|x| f("key_weight", x)).transpose()?,
        })
    }

    pub(crate) fn map<U>(self, mut f: impl FnMut(T) -> U) -> Parts<U> {
        Parts {
            q: f(self.q),
            k: f(self.k),
            v: f(self.v),
            decay: self.decay.map(&mut f),
            beta: self.beta.map(&mut f),
            initial_state: self.initial_state.map(&mut f),
            weights: self.weights.map(&mut f),
        }
    }

    /// Those that there are, in the order of the fields.
    pub(crate) fn into_vec(self) -> Vec<T> {
        let rest = [self.decay, self.beta, self.initial_state, self.weights];
        [self.q, self.k, self.v].into_iter().chain(rest.into_iter().flatten()).collect()
    }
}

impl<T> Outputs<T> {
    pub(crate) fn map<U>(self, mut f: impl FnMut(T) -> U) -> Outputs<U> {
        Outputs { o: f(self.o), state: self.state.map(f) }
    }
}

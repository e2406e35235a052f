//! The inputs and outputs of a call as slices.

use std::borrow::Cow;

use crate::error::Error;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::weights::Weights;
use crate::problem::shape::Lens;

/// A state as slices: mu `[N,G,F,V]`, nu `[N,G,F]`.
#[derive(Clone, Copy, Debug)]
pub struct StateSlices<'a> {
    /// The accumulated key-value state.
    pub mu: &'a [f32],
    /// The accumulated key state.
    pub nu: &'a [f32],
}

/// The inputs of a call as slices, row-major. q, k and v are rounded to
/// [`Config::dtype`](crate::Config::dtype) before anything is computed.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// q `[B,T,H,K]`.
    pub q: &'a [f32],
    /// k `[B,T,G,K]`.
    pub k: &'a [f32],
    /// v `[B,T,G,V]`.
    pub v: &'a [f32],
    /// The state before the first token; `None` is zero.
    pub initial: Option<StateSlices<'a>>,
    /// The weights of the feature maps, where they need any.
    pub weights: Option<&'a Weights>,
}

impl<'a> Inputs<'a> {
    /// From a zero state.
    #[must_use]
    pub fn new(q: &'a [f32], k: &'a [f32], v: &'a [f32]) -> Self {
        Self { q, k, v, initial: None, weights: None }
    }

    /// From the state that an earlier call ended with.
    #[must_use]
    pub fn with_initial(self, mu: &'a [f32], nu: &'a [f32]) -> Self {
        Self { initial: Some(StateSlices { mu, nu }), ..self }
    }

    /// With the weights of the feature maps.
    #[must_use]
    pub fn with_weights(self, weights: &'a Weights) -> Self {
        Self { weights: Some(weights), ..self }
    }

    /// Whether every slice has the length the shape asks for, and every number is finite.
    ///
    /// # Errors
    ///
    /// [`Error::Len`] or [`Error::NonFinite`], naming the first that fails.
    pub fn check(&self, lens: &Lens) -> Result<(), Error> {
        let mut slices = vec![("q", self.q, lens.q), ("k", self.k, lens.k), ("v", self.v, lens.v)];
        if let Some(initial) = self.initial {
            slices.push(("initial_mu", initial.mu, lens.mu));
            slices.push(("initial_nu", initial.nu, lens.nu));
        }
        for (tensor, slice, required) in slices {
            if slice.len() as u64 != required {
                return Err(Error::Len { tensor, required, actual: slice.len() as u64 });
            }
            if let Some(index) = slice.iter().position(|x| !x.is_finite()) {
                let actual = slice[index].to_string();
                return Err(Error::NonFinite { tensor, index: index as u64, actual });
            }
        }
        Ok(())
    }
}

impl Inputs<'_> {
    /// Whether what a dtype stores of q, k and v is finite as well.
    pub(crate) fn check_range(&self, dtype: Dtype) -> Result<(), Error> {
        for (tensor, slice) in [("q", self.q), ("k", self.k), ("v", self.v)] {
            if let Some(index) = slice.iter().position(|x| !dtype.round(*x).is_finite()) {
                let actual = format!("{}, infinite in {}", slice[index], dtype.name());
                return Err(Error::NonFinite { tensor, index: index as u64, actual });
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

/// What a call returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Output {
    /// o `[B,T,H,V]`, from a device as [`Config::dtype`](crate::Config::dtype) stores it.
    pub o: Vec<f32>,
    /// The final mu `[N,G,F,V]`.
    pub mu: Vec<f32>,
    /// The final nu `[N,G,F]`.
    pub nu: Vec<f32>,
}

impl Output {
    pub(crate) fn new(o: Vec<f32>, mu: Vec<f32>, nu: Vec<f32>) -> Self {
        Self { o, mu, nu }
    }
}

/// mu and nu of N sequences as buffers hold them: for each, mu `[G,F,V]` and then nu `[G,F]`.
///
/// ```
/// use linear_attention::state::{join_states, split_states};
///
/// let (mu, nu) = ([1.0, 2.0, 3.0, 4.0], [5.0, 6.0]);
/// let states = join_states(2, &mu, &nu);
/// assert_eq!(states, [1.0, 2.0, 5.0, 3.0, 4.0, 6.0]);
/// assert_eq!(split_states(2, mu.len(), &states), (mu.to_vec(), nu.to_vec()));
/// ```
#[must_use]
pub fn join_states(sequences: usize, mu: &[f32], nu: &[f32]) -> Vec<f32> {
    let n = sequences.max(1);
    let mut states = Vec::with_capacity(mu.len() + nu.len());
    for (mu, nu) in
        mu.chunks(mu.len().div_ceil(n).max(1)).zip(nu.chunks(nu.len().div_ceil(n).max(1)))
    {
        states.extend_from_slice(mu);
        states.extend_from_slice(nu);
    }
    states
}

/// The reverse of [`join_states`], where `mu_len` elements of `states` are mu's.
#[must_use]
pub fn split_states(sequences: usize, mu_len: usize, states: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let n = sequences.max(1);
    let mu_len = mu_len / n;
    let (mut mu, mut nu) = (Vec::new(), Vec::new());
    for state in states.chunks(states.len().div_ceil(n).max(1)) {
        let (first, rest) = state.split_at(mu_len.min(state.len()));
        mu.extend_from_slice(first);
        nu.extend_from_slice(rest);
    }
    (mu, nu)
}

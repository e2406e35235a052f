//! The CPU reference: the specification that runs.
//!
//! [`naive`] is the definition in f64, every weight written out; [`recurrent`] the same
//! sums carried from token to token in f64; [`chunked`] mirrors the shaders in f32, stage
//! by stage. They are written apart, so that each is a check on the others.
//!
//! All round q, k and v to the config's dtype first, as a caller who stores them so has done, and
//! none rounds o: that is the last thing a device does.

mod chunked;
mod naive;
mod phi;
mod recurrent;
mod softmax;

pub use chunked::{chunked, chunked_with_plan, segment_output, segment_state, state_scan};
pub use naive::naive;
pub use recurrent::recurrent;
pub use softmax::softmax;

pub(crate) use phi::Phi;

use std::ops::Range;

use crate::error::Error;
use crate::problem::config::Config;
use crate::problem::feature_map::weights::Weights;
use crate::problem::shape::{Lens, Shape};

/// What the f64 forms return, laid out as [`Output`](crate::Output).
#[derive(Clone, Debug, PartialEq)]
pub struct Output64 {
    /// o `[B,T,H,V]`.
    pub o: Vec<f64>,
    /// The final mu `[N,G,F,V]`.
    pub mu: Vec<f64>,
    /// The final nu `[N,G,F]`.
    pub nu: Vec<f64>,
}

impl Output64 {
    fn zeros(lens: &Lens) -> Self {
        Self {
            o: vec![0.0; lens.o as usize],
            mu: vec![0.0; lens.mu as usize],
            nu: vec![0.0; lens.nu as usize],
        }
    }
}

/// The features φ(k) of rows of k, in f64: `[rows,F]` of `[rows,K]`, rows of G heads in turn.
///
/// # Errors
///
/// A config that no call would accept; rows that are not whole; weights that are not the keys'.
pub fn key_features(
    config: &Config,
    kv_heads: u32,
    k: &[f32],
    weights: Option<&Weights>,
) -> Result<Vec<f64>, Error> {
    config.validate()?;
    if kv_heads == 0 {
        return Err(crate::error::PlanError::Zero { what: "kv_heads" }.into());
    }
    let required = k.len().next_multiple_of(config.key_dim as usize) as u64;
    if k.len() as u64 != required {
        return Err(Error::Len { tensor: "k", required, actual: k.len() as u64 });
    }
    weights.unwrap_or(&Weights::default()).check_keys(config, kv_heads)?;
    Ok(Phi::of_keys(config, weights).rows(k, kv_heads as usize).0)
}

/// Whether the weights are those that the maps need.
fn check_weights(config: &Config, shape: &Shape, weights: Option<&Weights>) -> Result<(), Error> {
    config.validate()?;
    let none = Weights::default();
    Ok(weights.unwrap_or(&none).check(config, shape)?)
}

/// Where rows of each tensor begin. Tokens count through all sequences.
#[derive(Clone, Copy)]
struct Rows {
    heads: usize,
    kv_heads: usize,
}

impl Rows {
    fn new(shape: &Shape) -> Self {
        Self { heads: shape.heads as usize, kv_heads: shape.kv_heads as usize }
    }

    /// Row of token t, query head h in q and o.
    fn q(&self, t: usize, h: usize) -> usize {
        t * self.heads + h
    }

    /// Row of token t, key/value head g in k and v.
    fn kv(&self, t: usize, g: usize) -> usize {
        t * self.kv_heads + g
    }

    /// The key/value head that query head h reads.
    fn kv_head(&self, h: usize) -> usize {
        h / (self.heads / self.kv_heads)
    }
}

/// The tokens of each sequence.
fn token_ranges(shape: &Shape) -> Result<Vec<Range<usize>>, Error> {
    shape.token_ranges().ok_or(Error::HostShape { what: "packed_at_most" })
}

/// s x / (s w + eps), or s x; 0 where the denominator is 0.
fn normalized(config: &Config, x: f64, weight: f64) -> f64 {
    let scale = f64::from(config.scale);
    match config.normalization.eps() {
        None => scale * x,
        Some(eps) => {
            let denominator = scale * weight + f64::from(eps);
            if denominator == 0.0 { 0.0 } else { scale * x / denominator }
        }
    }
}

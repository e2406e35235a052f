//! The CPU reference: the specification that runs.
//!
//! [`naive`] is the definition in f64, every weight written out; [`recurrent`] is the same sums,
//! carried from token to token in f64; [`mirror()`] is the arithmetic of the shaders in f32, stage
//! by stage. They are written apart, so that each is a check on the others.
//!
//! All round q, k and v to the config's dtype first, as a caller who stores them so has done, and
//! none rounds o: that is the last thing a device does. Rows of o that belong to no sequence are
//! zero. All scale a query's features by its row scale where o is normalised, so that no factor
//! that cancels in the quotient overflows or vanishes on the way.

mod backward;
mod mirror;
mod naive;
mod recurrent;
mod softmax;
mod summary;

pub use backward::backward;
pub(crate) use backward::backward_mirror;
pub(crate) use mirror::segment_decays;
pub use mirror::segment_output::segment_output;
pub use mirror::segment_state::segment_state;
pub use mirror::segment_transition::segment_transition;
pub use mirror::state_scan::state_scan;
pub use mirror::transition_scan::transition_scan;
pub use mirror::{mirror, mirror_with_plan};
pub use naive::naive;
pub use recurrent::recurrent;
pub use softmax::softmax;
pub use summary::{Summary64, summary};

use std::ops::Range;

use crate::error::{Error, PlanError};
use crate::problem::config::Config;
use crate::problem::feature_map::phi::Phi;
use crate::problem::feature_map::weights::Weights;
use crate::problem::shape::{Lens, Shape};

/// Results of the f64 forms, laid out as [`Output`](crate::Output).
#[derive(Clone, Debug, PartialEq)]
pub struct Output64 {
    /// o `[B,T,max(H,E),V]`.
    pub o: Vec<f64>,
    /// The final mu `[N,E,F,V]`.
    pub mu: Vec<f64>,
    /// The final nu `[N,E,F]`; empty where o is not normalised.
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

/// The features φ(k) of rows of k, in f64: `[rows,F]` of `[rows,K]`, rows of G key heads in turn.
///
/// # Errors
///
/// A config that no call would accept; rows that are not whole; weights that are not the keys'.
pub fn key_features(
    config: &Config,
    key_heads: u32,
    k: &[f32],
    weights: Option<&Weights>,
) -> Result<Vec<f64>, Error> {
    config.validate()?;
    if key_heads == 0 {
        return Err(PlanError::Zero { what: "key_heads" }.into());
    }
    let key_dim = config.key_dim as usize;
    let required = k.len().next_multiple_of(key_dim) as u64;
    if k.len() as u64 != required {
        return Err(Error::Len { tensor: "k", required, actual: k.len() as u64 });
    }
    weights.unwrap_or(&Weights::default()).check_keys(config, key_heads)?;
    let phi = Phi::of_keys(config, weights);
    let mut row_features = vec![0.0; config.features() as usize];
    let mut features = Vec::with_capacity(k.len() / key_dim * row_features.len());
    for (row, x) in k.chunks(key_dim).enumerate() {
        phi.row(x, row % key_heads as usize, &mut row_features);
        features.extend_from_slice(&row_features);
    }
    Ok(features)
}

/// The tokens of each sequence.
fn token_ranges(shape: &Shape) -> Result<Vec<Range<usize>>, Error> {
    shape.token_ranges().ok_or(Error::HostShape { what: "packed_up_to" })
}

/// A row x = q' mu of weight w = q' . nu as o has it: s x / (s w + eps gain), x / w where eps is 0,
/// and s x / gain where o is not normalised. 0 where the denominator is 0. The features of the
/// query were multiplied by `gain`.
fn normalized(config: &Config, x: f64, weight: f64, gain: f64) -> f64 {
    let quotient = |x: f64, denominator: f64| match denominator {
        0.0 => 0.0,
        _ => x / denominator,
    };
    let scale = f64::from(config.scale);
    match config.normalization.eps() {
        None => scale * x / gain,
        // s is a common factor as well.
        Some(0.0) => quotient(x, weight),
        Some(eps) => quotient(scale * x, scale * weight + f64::from(eps) * gain),
    }
}

//! The checks of a shape, and the elements of each tensor.

use std::ops::Range;

use crate::error::PlanError;
use crate::problem::config::Config;
use crate::problem::shape::{Packing, Shape};
use crate::problem::tensor::Tensor;

/// Elements of each tensor of a [`Shape`]; with [`Shape::with_strides`] those up to the end of the
/// last row of q, k, v and o.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lens {
    /// q `[B,T,H,K]`.
    pub q: u64,
    /// k `[B,T,G,K]`.
    pub k: u64,
    /// v `[B,T,E,V]`.
    pub v: u64,
    /// o `[B,T,max(H,E),V]`.
    pub o: u64,
    /// decay `[E]`, `[B,T,E]` or `[B,T,E,F]`; 0 where the update rule has none.
    pub decay: u64,
    /// beta `[B,T,E]` or `[B,T,1]`; 0 where the update rule has none.
    pub beta: u64,
    /// `A_log` `[E]`, then `dt_bias` `[E]` or `[E,F]`; 0 where decays have no activation.
    pub gate_weights: u64,
    /// mu `[N,E,F,V]`.
    pub mu: u64,
    /// nu `[N,E,F]`; 0 where nothing is divided.
    pub nu: u64,
    /// Both as buffers hold them: for each sequence mu `[E,F,V]`, then nu `[E,F]` if there is one.
    pub state: u64,
}

impl Shape {
    /// Elements of each tensor. T = 0 is a call as well: o is empty, and the final state is the
    /// initial one.
    ///
    /// # Errors
    ///
    /// A size that is zero and is not T's; G not dividing E; E neither dividing H nor a multiple of
    /// it; lengths that add up to more than T; valid tokens that are not a range of T for each row
    /// of the batch; strides of o with which its rows overlap; a tensor of 2^32 elements or more.
    pub fn lens(&self, config: &Config) -> Result<Lens, PlanError> {
        for (what, size) in [
            ("batch", self.batch),
            ("sequences", self.sequences()),
            ("heads", self.heads),
            ("key_heads", self.key_heads),
            ("value_heads", self.value_heads),
            ("slots", self.slots.unwrap_or(1)),
        ] {
            if size == 0 {
                return Err(PlanError::Zero { what });
            }
        }
        if self.slots.is_none() && (self.has_sources || self.checkpoints > 0) {
            let what = if self.has_sources { "sources" } else { "checkpoints" };
            return Err(PlanError::NoSlots { what });
        }
        self.check_heads()?;
        self.check_lengths()?;
        self.check_strides(config)?;
        let len = |tensor: Tensor| tensor.len(config, self);
        Ok(Lens {
            q: len(Tensor::Q)?,
            k: len(Tensor::K)?,
            v: len(Tensor::V)?,
            o: len(Tensor::O)?,
            decay: len(Tensor::Decay)?,
            beta: len(Tensor::Beta)?,
            gate_weights: len(Tensor::GateWeights)?,
            mu: len(Tensor::Mu)?,
            nu: len(Tensor::Nu)?,
            state: len(Tensor::InitialState)?,
        })
    }

    fn check_heads(&self) -> Result<(), PlanError> {
        let Self { heads, key_heads, value_heads, .. } = *self;
        if !value_heads.is_multiple_of(key_heads) {
            return Err(PlanError::KeyHeads { value_heads, key_heads });
        }
        if !heads.is_multiple_of(value_heads) && !value_heads.is_multiple_of(heads) {
            return Err(PlanError::ValueHeads { heads, value_heads });
        }
        Ok(())
    }

    fn check_lengths(&self) -> Result<(), PlanError> {
        if self.is_packed() && self.batch != 1 {
            return Err(PlanError::PackedBatch { actual: self.batch });
        }
        if let Packing::Lengths(lengths) = &self.packing {
            let sum: u64 = lengths.iter().map(|len| u64::from(*len)).sum();
            if sum > u64::from(u32::MAX) {
                return Err(PlanError::TooManyElements { what: "q", actual: sum });
            }
            // Rows of o behind the last sequence are zero.
            if sum > u64::from(self.seq_len) {
                return Err(PlanError::Lengths { required: self.seq_len, actual: sum });
            }
        }
        if let Packing::Padded(valid) = &self.packing {
            if valid.len() as u64 != u64::from(self.batch) {
                return Err(PlanError::ValidRanges {
                    required: self.batch,
                    actual: valid.len() as u64,
                });
            }
            let is_wrong = |range: &Range<u32>| range.start > range.end || range.end > self.seq_len;
            if let Some(row) = valid.iter().position(is_wrong) {
                let Range { start, end } = valid[row].clone();
                let row = row as u64;
                return Err(PlanError::Valid { row, required: self.seq_len, start, end });
            }
        }
        Ok(())
    }
}

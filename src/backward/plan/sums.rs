//! The recipe `sums`: gradients by passes of the forward kernels with the roles of the tensors
//! exchanged, some of them in reversed time, for every rule but with decays of rows.
//!
//! With `w_j = [v_j, 1]`, `M = [mu | nu]` and `dy_i` the gradients by `y_i = q'_i M_i`, which
//! follow from those by o,
//!
//! ```text
//! y_i   = q'_i M_i                       q', k', w     from M
//! dw_j  = Σ_(i>=j) (k'_j . q'_i) dy_i    k', q', dy    from dM, reversed
//! dk'_j = Σ_(i>=j) (w_j . dy_i) q'_i     w, dy, q'     from dM transposed, reversed
//! dq'_i = Σ_(j<=i) (dy_i . w_j) k'_j     dy, w, k'     from M transposed
//! ```
//!
//! in the places of q, k and v. Where nothing is divided, w is v, M is mu, and the first is left
//! out. Where states decay, so do those of the passes, and the last two keep theirs at the ends of
//! segments for `gradient_decays`, which also needs the q' that the last one would write over.
//!
//! With a delta rule w is the corrected value u, and the keys of a value head are one more of its
//! output heads, since they read the state that they correct. The gradients dr by what they recall
//! depend on one another: `gradient_corrections` and `gradient_corrections_reversed` compute u and,
//! in the place of the pass of dw, dr, token by token. Then
//!
//! ```text
//! dk'_j = Σ_(i>=j) (u_j . dr_i) k'_i     u, dr, k'     from 0, reversed
//!       + Σ_(j<=i) (dr_i . u_j) k'_j     dr, u, k'     from M transposed
//! ```
//!
//! from which `gradient_group_sums` takes away the tokens j = i.

use std::ops::Range;
use std::sync::Arc;

use crate::backward::plan::corrections::Walk;
use crate::backward::plan::decays::{DecayBlocks, Keeping, block_len, blocks};
use crate::backward::plan::pass::{Pass, PassConfigs};
use crate::backward::plan::rows::{Kept, Rows, Tensors};
use crate::backward::plan::scratch::{Placer, Scratch, SumsScratch};
use crate::error::PlanError;
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Config;
use crate::problem::shape::{Packing, Shape};
use crate::problem::strides::{Strides, TensorStrides};

/// The passes, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sums {
    /// The rows y, where o is divided.
    pub(crate) of_rows: Option<Pass>,
    /// The gradients by w, but for a delta rule; by k'; with one also by keys that recall; by q'.
    pub(crate) gradients: Vec<Pass>,
    /// Without any where nothing decays.
    pub(crate) decays: DecayBlocks,
    /// Without any but for a delta rule.
    pub(crate) walk: Walk,
}

impl Sums {
    /// The passes of a shape, and their scratch.
    ///
    /// # Errors
    ///
    /// Tensors or workgroups of a pass beyond the limits.
    pub(super) fn new(
        forward: &Plan,
        configs: &PassConfigs,
        piece: u32,
        limits: &wgpu::Limits,
    ) -> Result<(Self, Scratch), PlanError> {
        let (config, shape) = (forward.config(), forward.shape());
        let mut placer = Placer::new(limits);
        let (tensors, sums) = Tensors::place(&mut placer, forward)?;
        let has_decays = config.update_rule.decay().is_some();
        let walk = match config.update_rule.beta() {
            None => Walk::default(),
            Some(_) => Walk::new(forward)?,
        };
        let passes = Self::passes(forward, configs, &tensors, limits)?;
        let mut found = Self { walk, ..passes };
        let passes = found.place(&mut placer)?;
        if has_decays {
            let keeping = match &found.gradients[..] {
                [of_gradients, of_recalled, _, of_states] => {
                    Some(Keeping { of_states, of_gradients, of_recalled: Some(of_recalled) })
                }
                [_, of_gradients, of_states] => {
                    Some(Keeping { of_states, of_gradients, of_recalled: None })
                }
                _ => None,
            };
            let decays = keeping.map(|passes| blocks(forward, passes, limits)).transpose()?;
            found.decays = decays.unwrap_or_default();
        }
        let (keys, queries) = (tensors.keys.range, tensors.queries.range);
        let sums = SumsScratch { passes, ..sums };
        let mut scratch = Scratch { keys, queries, sums, ..Scratch::default() };
        scratch.place_maps(&mut placer, forward, piece)?;
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let rows = tokens * u64::from(shape.value_heads);
        scratch.gates = placer.place("gates", rows.checked_mul(config.gate_row().into()))?;
        let state = u64::from(shape.sequences()).checked_mul(2 * forward.state_size() / F32_SIZE);
        scratch.states = placer.place("states", state)?;
        scratch.size = placer.size()?;
        Ok((found, scratch))
    }

    /// Without their scratch.
    fn passes(
        forward: &Plan,
        configs: &PassConfigs,
        tensors: &Tensors,
        limits: &wgpu::Limits,
    ) -> Result<Self, PlanError> {
        let (config, shape) = (forward.config(), forward.shape());
        let Tensors { keys, queries, values, outputs, of_values, of_keys, of_queries, .. } =
            tensors;
        let Tensors { recalled, of_recalled_keys, of_recalling_keys, .. } = tensors;
        let Tensors { forward: in_order, reversed, recalling, .. } = tensors;
        let pass = |(config, tuning): &(Config, Tuning), rows: [&Rows; 4], is_reversed| {
            let shape = shape_of(shape, rows, is_reversed);
            let plan = Plan::new(config, &shape, limits, tuning)?;
            let plan = if is_reversed && configs.reverses { plan.in_reversed_time() } else { plan };
            let rows = rows.map(|rows| rows.range.clone());
            let (decays, states, scratch) = (0..0, 0..0, 0..0);
            let (stores_state, keeps_states) = (false, false);
            Ok::<_, PlanError>(Pass {
                plan,
                rows,
                decays,
                states,
                stores_state,
                keeps_states,
                scratch,
            })
        };
        let by_features = |rows, kept: &Kept, is_reversed: bool| {
            let pass = pass(&configs.by_features, rows, is_reversed)?;
            let (states, decays) = (kept.state.clone(), kept.decays.clone());
            Ok::<_, PlanError>(Pass { states, decays, stores_state: is_reversed, ..pass })
        };
        let (by_values, tuning) = &configs.by_values;
        let has_decays = config.update_rule.decay().is_some();
        let tuning = match has_decays {
            true => tuning.with_segment_len(block_len(forward)?),
            false => *tuning,
        };
        let by_values = (by_values.clone(), tuning);
        let by_values = |rows, kept: &Kept, is_reversed: bool| {
            let pass = pass(&by_values, rows, is_reversed)?;
            let (states, decays) = (kept.transposed.clone(), kept.decays.clone());
            let keeps_states = has_decays && is_reversed;
            Ok::<_, PlanError>(Pass { states, decays, keeps_states, ..pass })
        };
        let of_keys = by_values([values, outputs, queries, of_keys], reversed, true)?;
        let of_queries = by_values([outputs, values, keys, of_queries], in_order, false)?;
        let (mut of_rows, mut gradients) = (None, Vec::new());
        if config.is_normalized() {
            of_rows = Some(by_features([queries, keys, values, outputs], in_order, false)?);
        }
        match config.update_rule.beta() {
            None => {
                let of_values = by_features([keys, queries, outputs, of_values], reversed, true)?;
                gradients.extend([of_values, of_keys, of_queries]);
            }
            Some(_) => gradients.extend([
                of_keys,
                by_values([values, recalled, keys, of_recalled_keys], recalling, true)?,
                by_values([recalled, values, keys, of_recalling_keys], in_order, false)?,
                of_queries,
            ]),
        }
        Ok(Self { of_rows, gradients, decays: DecayBlocks::default(), walk: Walk::default() })
    }

    /// Places the scratch of the passes: all in the same range, but where they keep states, each
    /// behind those of the passes before, which are first in their scratch.
    fn place(&mut self, placer: &mut Placer) -> Result<Range<u64>, PlanError> {
        let (mut begins, mut begin, mut most) = (Vec::new(), 0u64, 0u64);
        for pass in self.of_rows.iter().chain(&self.gradients) {
            begins.push(begin);
            most = most.max(begin.saturating_add(pass.plan.scratch_size()));
            if pass.keeps_states {
                begin = placer.align(begin.saturating_add(pass.plan.scratch().states.end));
            }
        }
        let all = placer.place("scratch", Some(most.div_ceil(F32_SIZE)))?;
        for (pass, begin) in self.of_rows.iter_mut().chain(&mut self.gradients).zip(begins) {
            let begin = all.start + begin;
            pass.scratch = begin..begin + pass.plan.scratch_size();
        }
        Ok(all)
    }
}

/// The shape of a pass with such q, k, v and o.
fn shape_of(outer: &Shape, rows: [&Rows; 4], is_reversed: bool) -> Shape {
    let [q, k, v, _] = rows.map(|rows| rows.heads);
    let mut shape = Shape::new(outer.batch, outer.seq_len, q).with_key_heads(k).with_value_heads(v);
    shape.packing = outer.packing.clone();
    if is_reversed {
        shape.packing = reversed(outer);
        if let Packing::Lengths(lengths) = &shape.packing {
            // Tokens behind the last sequence would be before the first.
            shape.seq_len = lengths.iter().sum();
        }
    }
    let strides = rows.map(|Rows { heads, stride, .. }| {
        let token = heads.saturating_mul(*stride);
        Strides { offset: 0, batch: shape.seq_len.saturating_mul(token), token, head: *stride }
    });
    let [q, k, v, o] = strides;
    shape.with_strides(TensorStrides { q, k, v, o })
}

/// The sequences from the last to the first, and the tokens of each likewise.
fn reversed(outer: &Shape) -> Packing {
    match &outer.packing {
        Packing::Lengths(lengths) => {
            let lengths: Vec<u32> = lengths.iter().rev().copied().collect();
            Packing::Lengths(lengths.into())
        }
        Packing::Padded(valid) => {
            let of = |range: &Range<u32>| {
                outer.seq_len.saturating_sub(range.end)..outer.seq_len.saturating_sub(range.start)
            };
            let valid: Arc<[Range<u32>]> = valid.iter().rev().map(of).collect();
            Packing::Padded(valid)
        }
        other => other.clone(),
    }
}

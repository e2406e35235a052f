//! The tensors of the recipe `sums`, in scratch.

use std::ops::Range;

use crate::backward::plan::scratch::{Placer, SumsScratch};
use crate::error::PlanError;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::Config;

/// Columns of w, and of M.
pub(super) fn columns(config: &Config) -> u32 {
    (config.value_dim + u32::from(config.is_normalized())).next_multiple_of(4)
}

/// vec4s of a row of features and of a row of w.
pub(super) fn pass_vec4s(config: &Config) -> [u64; 2] {
    [config.features().div_ceil(4), columns(config) / 4].map(u64::from)
}

/// A tensor of a pass: its range, its heads, the elements from one row to the next.
#[derive(Clone)]
pub(super) struct Rows {
    pub(super) range: Range<u64>,
    pub(super) heads: u32,
    pub(super) stride: u32,
}

/// The states that passes begin with, and their decays.
pub(super) struct Kept {
    pub(super) state: Range<u64>,
    pub(super) transposed: Range<u64>,
    pub(super) decays: Range<u64>,
}

/// What the passes have as q, k, v and o, as [`SumsScratch`] has it.
pub(super) struct Tensors {
    pub(super) keys: Rows,
    pub(super) queries: Rows,
    pub(super) values: Rows,
    pub(super) outputs: Rows,
    pub(super) of_values: Rows,
    pub(super) of_keys: Rows,
    pub(super) of_queries: Rows,
    /// The gradients by what keys recall, and those by these keys as keys and as queries; empty
    /// without a delta rule.
    pub(super) recalled: Rows,
    pub(super) of_recalled_keys: Rows,
    pub(super) of_recalling_keys: Rows,
    /// M, the gradients by it, and those by it of what keys recall, of which none is there yet.
    pub(super) forward: Kept,
    pub(super) reversed: Kept,
    pub(super) recalling: Kept,
}

/// Elements of a part of a tensor, whose bindings begin at multiples of 64: as
/// shaders/gradient/passes.wgsl and shaders/gradient/pass_decays.wgsl have it.
fn part_len(items: u64, elements: u64) -> Option<u64> {
    items.checked_mul(elements)?.checked_next_multiple_of(64)
}

/// A tensor of parts that lie one behind the other.
fn parts_of<const N: usize>(
    placer: &mut Placer,
    what: &'static str,
    lens: [Option<u64>; N],
) -> Result<(Range<u64>, [Range<u64>; N]), PlanError> {
    let all = lens.iter().try_fold(0u64, |sum, len| sum.checked_add((*len)?));
    let all = placer.place(what, all)?;
    let mut begin = all.start;
    let parts = lens.map(|len| {
        let part = begin..begin + F32_SIZE * len.unwrap_or(0);
        begin = part.end;
        part
    });
    Ok((all, parts))
}

impl Tensors {
    pub(super) fn place(
        placer: &mut Placer,
        forward: &Plan,
    ) -> Result<(Self, SumsScratch), PlanError> {
        let (config, shape) = (forward.config(), forward.shape());
        let (features, columns) = (config.features().next_multiple_of(4), columns(config));
        let (e, h) = (shape.value_heads, shape.output_heads());
        let has_decays = config.update_rule.decay().is_some();
        // Heads of keys that recall.
        let r = if config.update_rule.beta().is_some() { e } else { 0 };
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let of_tokens = |heads: u32, elements: u32| {
            part_len(tokens.checked_mul(heads.into())?, elements.into())
        };
        let rows = |range, heads, stride| Rows { range, heads, stride };
        let mut place = |what, heads: u32, stride: u32| {
            let elements = (tokens * u64::from(heads)).checked_mul(stride.into());
            Ok::<_, PlanError>(rows(placer.place(what, elements)?, heads, stride))
        };
        let keys = place("keys", e, features)?;
        let queries = place("queries", h, features + 4)?;
        let values = place("values", e, columns)?;
        let of_values = place("values", if r > 0 { e } else { h }, columns)?;
        let of_queries = match has_decays {
            true => place("queries", h, features + 4)?,
            false => queries.clone(),
        };
        let parts = [h, r].map(|heads| of_tokens(heads, columns));
        let (outputs, [of_h, recalled]) = parts_of(placer, "outputs", parts)?;
        let parts = [h, r, r].map(|heads| of_tokens(heads, features));
        let (of_keys, [by_h, by_r, by_recalling]) = parts_of(placer, "keys", parts)?;
        let (state, n) = (u64::from(features) * u64::from(columns), u64::from(shape.sequences()));
        let parts = [e, e, h, h, r].map(|heads| part_len(n * u64::from(heads), state));
        let (states, [mu, mu_transposed, of_mu, of_mu_transposed, zeros]) =
            parts_of(placer, "states", parts)?;
        let [by_e, of_outputs, of_recalling] =
            [e, h, r].map(|heads| of_tokens(heads, has_decays.into()));
        let parts = [by_e, of_outputs, of_recalling, of_tokens(r, 1)];
        let (decays, [in_order, reversed, reversed_recalling, _]) =
            parts_of(placer, "decays", parts)?;
        let scratch = SumsScratch {
            values: values.range.clone(),
            outputs,
            of_values: of_values.range.clone(),
            of_keys,
            of_queries: if has_decays { of_queries.range.clone() } else { 0..0 },
            decays,
            states,
            passes: 0..0,
        };
        let kept = |state, transposed, decays| Kept { state, transposed, decays };
        let tensors = Self {
            keys,
            queries,
            values,
            outputs: rows(of_h, h, columns),
            of_values,
            of_keys: rows(by_h, h, features),
            of_queries,
            recalled: rows(recalled, r, columns),
            of_recalled_keys: rows(by_r, r, features),
            of_recalling_keys: rows(by_recalling, r, features),
            forward: kept(mu, mu_transposed, in_order),
            reversed: kept(of_mu, of_mu_transposed, reversed),
            recalling: kept(zeros.clone(), zeros, reversed_recalling),
        };
        Ok((tensors, scratch))
    }
}

//! The recipe `sums`: gradients of the rules `linear` and, where decays are one for each token and
//! head, `gated` by passes of the forward kernels with the roles of the tensors exchanged, two of
//! them in reversed time.
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

use std::ops::Range;
use std::sync::Arc;

use crate::backward::plan::decays::{DecayBlocks, block_len, blocks};
use crate::backward::plan::scratch::{Placer, Scratch, SumsScratch};
use crate::error::{ConfigError, PlanError};
use crate::kernel::gradient::has_sums;
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::{Config, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::shape::{Packing, Shape};
use crate::problem::strides::{Strides, TensorStrides};
use crate::problem::update_rule::{Decay, UpdateRule};

/// The configs of the passes, and the sizes they are compiled with.
#[derive(Clone, Debug)]
pub(crate) struct PassConfigs {
    /// Keys as wide as features and values as wide as w.
    pub(crate) by_features: (Config, Tuning),
    /// Keys as wide as w and values as wide as features.
    pub(crate) by_values: (Config, Tuning),
    /// False for a mistake: all passes are in forward time.
    pub(crate) reverses: bool,
}

/// Columns of w, and of M.
fn columns(config: &Config) -> u32 {
    (config.value_dim + u32::from(config.is_normalized())).next_multiple_of(4)
}

/// vec4s of a row of features and of a row of w.
pub(super) fn pass_vec4s(config: &Config) -> [u64; 2] {
    [config.features().div_ceil(4), columns(config) / 4].map(u64::from)
}

impl PassConfigs {
    /// `None` where gradients of the config are no such sums, or wider than a row of k may be.
    /// `tuned` has the sizes of a config's pass on the device, and `given` the caller's, of which
    /// all but the layout are taken.
    pub(crate) fn new(
        config: &Config,
        given: Option<&Tuning>,
        tuned: &dyn Fn(&Config) -> Result<Tuning, ConfigError>,
    ) -> Option<Self> {
        if !has_sums(config) {
            return None;
        }
        let rule = match config.update_rule {
            UpdateRule::Linear => UpdateRule::Linear,
            _ => UpdateRule::Gated(Decay::per_head()),
        };
        let tuned = |[key_dim, value_dim]: [u32; 2]| {
            let config = Config::new(key_dim, value_dim)
                .with_update_rule(rule)
                .with_feature_map(FeatureMap::Identity)
                .with_normalization(Normalization::None);
            config.validate().ok()?;
            let tuning = tuned(&config).ok()?;
            let layout = tuning.layout.with_even_columns(&config);
            Some((config, Tuning { layout, ..*given.unwrap_or(&tuning) }))
        };
        let (features, columns) = (config.features().next_multiple_of(4), columns(config));
        let by_features = tuned([features, columns])?;
        Some(Self { by_features, by_values: tuned([columns, features])?, reverses: true })
    }
}

/// A pass of the forward kernels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pass {
    pub(crate) plan: Plan,
    /// The bytes of scratch that it has as q, k, v and o.
    pub(crate) rows: [Range<u64>; 4],
    /// Those of its decays; empty where it has none.
    pub(crate) decays: Range<u64>,
    /// Those of its initial state, in whose place it stores the final one if `stores_state`.
    pub(crate) states: Range<u64>,
    pub(crate) stores_state: bool,
    /// Those of its own scratch.
    pub(crate) scratch: Range<u64>,
}

/// The passes, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sums {
    /// The rows y, where o is divided.
    pub(crate) of_rows: Option<Pass>,
    /// The gradients by w, k' and q'.
    pub(crate) gradients: [Pass; 3],
    /// Without any where nothing decays.
    pub(crate) decays: DecayBlocks,
}

/// A tensor of a pass: its range, its heads, the elements from one row to the next.
#[derive(Clone)]
struct Rows {
    range: Range<u64>,
    heads: u32,
    stride: u32,
}

/// Elements of a part of states or decays, whose bindings begin at multiples of 64: as
/// shaders/gradient/passes.wgsl and shaders/gradient/pass_decays.wgsl have it.
fn part_len(items: u64, elements: u64) -> Option<u64> {
    items.checked_mul(elements)?.checked_next_multiple_of(64)
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
        let (features, columns) = (config.features().next_multiple_of(4), columns(config));
        let (e, h) = (shape.value_heads, shape.output_heads());
        let mut placer = Placer::new(limits);
        let tokens = u64::from(shape.batch) * u64::from(shape.seq_len);
        let mut rows = |what, heads: u32, stride: u32| {
            let elements = (tokens * u64::from(heads)).checked_mul(stride.into());
            Ok::<_, PlanError>(Rows { range: placer.place(what, elements)?, heads, stride })
        };
        let keys = rows("keys", e, features)?;
        let queries = rows("queries", h, features + 4)?;
        let values = rows("values", e, columns)?;
        let outputs = rows("outputs", h, columns)?;
        let of_values = rows("values", h, columns)?;
        let of_keys = rows("keys", h, features)?;
        let has_decays = config.gates().is_some();
        let of_queries =
            if has_decays { rows("queries", h, features + 4)? } else { queries.clone() };
        let (state, n) = (u64::from(features) * u64::from(columns), u64::from(shape.sequences()));
        let [by_e, by_h] = [e, h].map(|heads| part_len(n * u64::from(heads), state));
        let (states, parts) = parts_of(&mut placer, "states", [by_e, by_e, by_h, by_h])?;
        let [initial, initial_transposed, last, last_transposed] = parts;
        let of_heads = |heads: u32| part_len(tokens * u64::from(heads), has_decays.into());
        let (decays, parts) = parts_of(&mut placer, "decays", [e, h].map(of_heads))?;
        let (by_features, by_values) = (&configs.by_features, &configs.by_values);
        let pass = |(config, tuning): &(Config, Tuning), rows: [&Rows; 4], states, is_reversed| {
            let shape = shape_of(shape, rows, is_reversed);
            let plan = Plan::new(config, &shape, limits, tuning)?;
            let plan = if is_reversed && configs.reverses { plan.in_reversed_time() } else { plan };
            let rows = rows.map(|rows| rows.range.clone());
            let decays = parts[usize::from(is_reversed)].clone();
            Ok::<_, PlanError>(Pass {
                plan,
                rows,
                decays,
                states,
                stores_state: false,
                scratch: 0..0,
            })
        };
        let of_rows = [&queries, &keys, &values, &outputs];
        let of_rows = config.is_normalized().then(|| pass(by_features, of_rows, initial, false));
        let by_kept = match has_decays {
            true => &(by_values.0.clone(), by_values.1.with_segment_len(block_len(forward)?)),
            false => by_values,
        };
        let mut found = Self {
            of_rows: of_rows.transpose()?,
            gradients: [
                Pass {
                    stores_state: true,
                    ..pass(by_features, [&keys, &queries, &outputs, &of_values], last, true)?
                },
                pass(by_kept, [&values, &outputs, &queries, &of_keys], last_transposed, true)?,
                pass(by_kept, [&outputs, &values, &keys, &of_queries], initial_transposed, false)?,
            ],
            decays: DecayBlocks::default(),
        };
        let passes = found.place(&mut placer, has_decays)?;
        if has_decays {
            let [_, of_keys, of_queries] = &found.gradients;
            found.decays = blocks(forward, of_queries, of_keys, limits)?;
        }
        let sums = SumsScratch {
            values: values.range,
            outputs: outputs.range,
            of_values: of_values.range,
            of_keys: of_keys.range,
            of_queries: if has_decays { of_queries.range } else { 0..0 },
            decays,
            states,
            passes,
        };
        let mut scratch =
            Scratch { keys: keys.range, queries: queries.range, sums, ..Scratch::default() };
        scratch.place_maps(&mut placer, forward, piece)?;
        let gates = if has_decays { u64::from(config.gate_row()) } else { 0 };
        scratch.gates = placer.place("gates", (tokens * u64::from(e)).checked_mul(gates))?;
        let state = n.checked_mul(2 * forward.state_size() / F32_SIZE);
        scratch.states = placer.place("states", state)?;
        scratch.size = placer.size()?;
        Ok((found, scratch))
    }

    /// Places the scratch of the passes: all in the same range, but where they keep states, the last
    /// one behind those of the one before, which are first in its scratch.
    fn place(&mut self, placer: &mut Placer, keeps_states: bool) -> Result<Range<u64>, PlanError> {
        let size = |pass: &Pass| pass.plan.scratch_size();
        let [of_values, of_keys, of_queries] = self.gradients.each_ref().map(size);
        let before = self.of_rows.as_ref().map_or(0, size).max(of_values);
        let kept = self.gradients[1].plan.scratch().states.end;
        let last = if keeps_states { placer.align(kept) } else { 0 };
        let most = before.max(of_keys).max(last.saturating_add(of_queries));
        let all = placer.place("scratch", Some(most.div_ceil(F32_SIZE)))?;
        for pass in self.of_rows.iter_mut().chain(&mut self.gradients) {
            pass.scratch = all.start..all.start + pass.plan.scratch_size();
        }
        let [.., pass] = &mut self.gradients;
        pass.scratch = pass.scratch.start + last..pass.scratch.end + last;
        Ok(all)
    }
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

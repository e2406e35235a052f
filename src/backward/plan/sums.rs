//! The recipe `sums`: gradients of the rule `linear` by passes of the forward kernels with the
//! roles of the tensors exchanged, two of them in reversed time.
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
//! out.

use std::ops::Range;
use std::sync::Arc;

use crate::backward::plan::scratch::{Placer, Scratch, SumsScratch};
use crate::error::{ConfigError, PlanError};
use crate::plan::tuning::Tuning;
use crate::plan::{F32_SIZE, Plan};
use crate::problem::config::{Config, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::shape::{Packing, Shape};
use crate::problem::strides::{Strides, TensorStrides};
use crate::problem::update_rule::UpdateRule;

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
        if config.update_rule != UpdateRule::Linear {
            return None;
        }
        let tuned = |[key_dim, value_dim]: [u32; 2]| {
            let config = Config::new(key_dim, value_dim)
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
    /// Those of its initial state, in whose place it stores the final one if `stores_state`.
    pub(crate) states: Range<u64>,
    pub(crate) stores_state: bool,
}

/// The passes, in their order.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sums {
    /// The rows y, where o is divided.
    pub(crate) of_rows: Option<Pass>,
    /// The gradients by w, k' and q'.
    pub(crate) gradients: [Pass; 3],
}

/// A tensor of a pass: its range, its heads, the elements from one row to the next.
#[derive(Clone)]
struct Rows {
    range: Range<u64>,
    heads: u32,
    stride: u32,
}

/// Elements of the parts of the states, whose bindings begin at multiples of 64: as
/// shaders/gradient/passes.wgsl has it.
fn states_len(items: u64, state: u64) -> Option<u64> {
    items.checked_mul(state)?.checked_next_multiple_of(64)
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
        let (state, n) = (u64::from(features) * u64::from(columns), u64::from(shape.sequences()));
        let [by_e, by_h] = [e, h].map(|heads| states_len(n * u64::from(heads), state));
        let lens = [by_e, by_e, by_h, by_h];
        let all = lens.iter().try_fold(0u64, |sum, len| sum.checked_add((*len)?));
        let states = placer.place("states", all)?;
        let mut begin = states.start;
        let [initial, initial_transposed, last, last_transposed] = lens.map(|len| {
            let part = begin..begin + F32_SIZE * len.unwrap_or(0);
            begin = part.end;
            part
        });
        let (by_features, by_values) = (&configs.by_features, &configs.by_values);
        let pass = |(config, tuning): &(Config, Tuning), rows: [&Rows; 4], states, is_reversed| {
            let shape = shape_of(shape, rows, is_reversed);
            let plan = Plan::new(config, &shape, limits, tuning)?;
            let plan = if is_reversed && configs.reverses { plan.in_reversed_time() } else { plan };
            let rows = rows.map(|rows| rows.range.clone());
            Ok::<_, PlanError>(Pass { plan, rows, states, stores_state: false })
        };
        let of_rows = [&queries, &keys, &values, &outputs];
        let of_rows = config.is_normalized().then(|| pass(by_features, of_rows, initial, false));
        let of_values = [&keys, &queries, &outputs, &of_values];
        let of_keys = [&values, &outputs, &queries, &of_keys];
        let of_queries = [&outputs, &values, &keys, &queries];
        let found = Self {
            of_rows: of_rows.transpose()?,
            gradients: [
                Pass { stores_state: true, ..pass(by_features, of_values, last, true)? },
                pass(by_values, of_keys, last_transposed, true)?,
                pass(by_values, of_queries, initial_transposed, false)?,
            ],
        };
        let of_passes = found.passes().map(|pass| pass.plan.scratch_size()).max().unwrap_or(0);
        let sums = SumsScratch {
            values: values.range,
            outputs: outputs.range,
            of_values: found.gradients[0].rows[3].clone(),
            of_keys: found.gradients[1].rows[3].clone(),
            states,
            passes: placer.place("scratch", Some(of_passes.div_ceil(F32_SIZE)))?,
        };
        let mut scratch =
            Scratch { keys: keys.range, queries: queries.range, sums, ..Scratch::default() };
        scratch.place_maps(&mut placer, forward, piece)?;
        let state = n.checked_mul(2 * forward.state_size() / F32_SIZE);
        scratch.states = placer.place("states", state)?;
        scratch.size = placer.size()?;
        Ok((found, scratch))
    }

    fn passes(&self) -> impl Iterator<Item = &Pass> {
        self.of_rows.iter().chain(&self.gradients)
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

//! The rule `linear`: gradients by calls of the forward engine.
//!
//! With `c_i` the factor of row i of o and `dn_i = c_i do_i`,
//!
//! ```text
//! g_i   = Σ_{j<=i} (dn_i . v_j) k'_j           a call of  dn, v, k'  as q, k, v
//! dq'_i = g_i - c_i (q'_i . g_i) nu_i
//! dk'_j = Σ_{i>=j} (v_j . dn_i) q'_i + dnu_j   a call of  v, dn, q'  with time reversed
//! dv_j  = Σ_{i>=j} (k'_j . q'_i) dn_i          a call of  k', q', dn  with time reversed
//! dnu_j = Σ_{i>=j} (-c_i (q'_i . g_i)) q'_i
//! ```
//!
//! A head goes through its tokens in pieces, whose rows stay in the CPU's second cache.

mod piece;

use std::ops::Range;
use std::sync::PoisonError;

use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::{Backward, MapGradients, Targets, Task};
use crate::cpu::engine::CpuAttention;
use crate::cpu::plan::CpuPlan;
use crate::cpu::tensors::Tensors;
use crate::error::Error;
use crate::problem::config::{Config, MAX_KEY_DIM, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::gradients::OutputGradients;
use crate::problem::shape::Shape;
use crate::problem::update_rule::UpdateRule;

use piece::{Piece, Step};

/// Rows of a piece, of all heads of a task, for each thread of a call: the tokens of a piece are as many
/// as fit in.
const ROWS: usize = 512;

/// The most output heads of a task, unless its key heads or query heads are whole only with more.
/// Neighbours lie side by side in memory.
pub(super) const HEADS: usize = 4;

/// Tokens whose rows are on their way from memory.
const AHEAD: usize = 8;

/// True for configs whose gradients are such calls.
pub(super) fn suit(config: &Config) -> bool {
    // Features and values are the keys of calls.
    config.update_rule == UpdateRule::Linear
        && config.features().max(config.value_dim) <= MAX_KEY_DIM
}

/// The value heads of a task.
pub(super) struct Sums<'a, 'b> {
    pub(super) engine: &'a CpuAttention,
    pub(super) of: &'a Backward<'b>,
    pub(super) task: &'a Task,
    pub(super) targets: &'a Targets<'b>,
}

/// The calls of a thread, and the memory for the rows of a piece.
pub(super) struct Calls {
    piece: usize,
    /// With values as keys, and features as values.
    by_value: Plans,
    /// The other way round.
    by_feature: Plans,
    rows: Rows,
    states: States,
    maps: MapMemory,
}

/// Plans for a piece and for what is left behind the last whole one.
struct Plans {
    attention: CpuAttention,
    heads: usize,
    threads: usize,
    plans: Vec<(usize, CpuPlan)>,
}

/// The rows of a piece, in the order of its call, each of all output heads.
#[derive(Default)]
struct Rows {
    /// k' and q', `[tokens,heads,F]`, and the gains of the queries.
    keys: Vec<f32>,
    queries: Vec<f32>,
    gains: Vec<f32>,
    /// nu after each token, `[tokens,heads,F]`.
    nus: Vec<f32>,
    /// v and dn, `[tokens,heads,V]`.
    values: Vec<f32>,
    of_rows: Vec<f32>,
    /// Results: by features, and of calls by values.
    of_features: Vec<f32>,
    of_values: Vec<f32>,
    /// Results in the order of tokens: by the rows of q or k, and of v, of the query, key or value heads
    /// of the task.
    to_elements: Vec<f32>,
    to_values: Vec<f32>,
}

/// The sums that go from piece to piece, of each output head.
#[derive(Default)]
struct States {
    /// mu or its gradient as `[V,F]`, of which the next ones are written beside.
    by_value: [Vec<f32>; 2],
    /// The gradient as `[F,V]`.
    by_feature: [Vec<f32>; 2],
    /// nu or its gradient.
    nu: Vec<f64>,
    /// Of each token: c, and `c (q' . g)`.
    factors: Vec<f32>,
    taken: Vec<f32>,
}

impl Calls {
    /// Calls of so many output heads, on so many threads.
    pub(super) fn new(engine: &CpuAttention, heads: usize, threads: usize) -> Result<Self, Error> {
        let config = engine.config();
        let (features, value_dim) = (config.features(), config.value_dim);
        let plans = |key_dim: u32, value_dim: u32| {
            let config = Config::new(key_dim, value_dim)
                .with_feature_map(FeatureMap::Identity)
                .with_normalization(Normalization::None)
                .with_scale(1.0);
            let attention = engine.with_config(config)?;
            Ok::<_, Error>(Plans { attention, heads, threads, plans: Vec::new() })
        };
        Ok(Self {
            piece: (ROWS * threads / heads.next_power_of_two()).max(1),
            by_value: plans(value_dim, features)?,
            by_feature: plans(features, value_dim)?,
            rows: Rows::default(),
            states: States::default(),
            maps: MapMemory::default(),
        })
    }
}

impl Plans {
    /// The plan for so many tokens.
    fn of(&mut self, tokens: usize) -> Result<&mut CpuPlan, Error> {
        let at = match self.plans.iter().position(|(len, _)| *len == tokens) {
            Some(at) => at,
            None => {
                // The first is that of whole pieces, or of a sequence of less.
                self.plans.truncate(1);
                let shape = Shape::new(1, tokens as u32, self.heads as u32);
                let plan = self.attention.plan_with(&shape, self.threads)?;
                self.plans.push((tokens, plan));
                self.plans.len() - 1
            }
        };
        Ok(&mut self.plans[at].1)
    }

    /// o of a call, from the first of two states, which becomes the state after it.
    fn run(
        &mut self,
        [q, k, v]: [&[f32]; 3],
        states: &mut [Vec<f32>; 2],
        o: &mut [f32],
    ) -> Result<(), Error> {
        let tokens = q.len() / (self.heads * self.attention.config().key_dim as usize);
        let [state, next] = states;
        let tensors =
            Tensors::new(q, k, v, o).with_initial_state(state, &[]).with_final_state(next, &mut []);
        self.of(tokens)?.run(tensors)?;
        std::mem::swap(state, next);
        Ok(())
    }
}

impl Sums<'_, '_> {
    /// The gradients of all heads of the task.
    pub(super) fn run(&self, calls: &mut Calls) -> Result<(), Error> {
        let mut found = self.of.map_gradients();
        self.forward(calls, &mut found)?;
        self.reverse(calls, &mut found)?;
        *self.task.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
        Ok(())
    }

    /// The output heads of the task.
    fn heads(&self) -> Range<usize> {
        let group = self.of.heads.value_group;
        self.task.values.start * group..self.task.values.end * group
    }

    /// Gradients by queries; keeps what the other direction needs.
    fn forward(&self, calls: &mut Calls, found: &mut MapGradients) -> Result<(), Error> {
        let tokens = &self.task.tokens;
        let initial = self.of.inputs.initial_state;
        self.load(initial.map(|state| state.mu), initial.map(|state| state.nu), |_| true, calls);
        let rows = tokens.len() * self.heads().len();
        let States { factors, taken, .. } = &mut calls.states;
        for of_tokens in [factors, taken] {
            of_tokens.clear();
            of_tokens.resize(rows, 0.0);
        }
        for first in tokens.clone().step_by(calls.piece) {
            let piece = first..tokens.end.min(first + calls.piece);
            self.step(Step::MapForward, &piece, calls, found);
            let Calls { by_value, rows, states, .. } = calls;
            let Rows { keys, values, of_rows, of_features, .. } = rows;
            by_value.run([of_rows, values, keys], &mut states.by_value, of_features)?;
            self.step(Step::PullForward, &piece, calls, found);
        }
        Ok(())
    }

    /// Gradients by keys, values and the initial state.
    fn reverse(&self, calls: &mut Calls, found: &mut MapGradients) -> Result<(), Error> {
        let tokens = &self.task.tokens;
        let OutputGradients { mu, nu, .. } = self.of.gradients;
        let group = self.of.heads.value_group;
        // The final state counts once, however many output heads read it.
        self.load(mu, nu, |h| h.is_multiple_of(group), calls);
        for first in tokens.clone().step_by(calls.piece).rev() {
            let piece = first..tokens.end.min(first + calls.piece);
            self.step(Step::MapReverse, &piece, calls, found);
            let Calls { by_value, by_feature, rows, states, .. } = calls;
            let Rows { keys, queries, values, of_rows, of_features, of_values, .. } = rows;
            by_value.run([values, of_rows, queries], &mut states.by_value, of_features)?;
            by_feature.run([keys, queries, of_rows], &mut states.by_feature, of_values)?;
            self.step(Step::PullReverse, &piece, calls, found);
        }
        let States { by_feature: [mu, _], nu, .. } = &calls.states;
        let mu_len = mu.len() / self.heads().len();
        let nu_len = nu.len() / self.heads().len();
        for (i, h) in self.heads().enumerate() {
            let e = self.of.heads.value_head(h);
            let row = self.task.n * self.of.heads.value + e;
            self.targets.mu.with_row(row, |to| {
                for (to, x) in to.iter_mut().zip(&mu[i * mu_len..]) {
                    *to += x;
                }
            });
            self.targets.nu.with_row(row, |to| {
                for (to, x) in to.iter_mut().zip(&nu[i * nu_len..]) {
                    *to += *x as f32;
                }
            });
        }
        Ok(())
    }

    /// The states of such slices, `[N,E,F,V]` and `[N,E,F]`, or zero; for output heads that want them.
    fn load(
        &self,
        mu: Option<&[f32]>,
        nu: Option<&[f32]>,
        is_wanted: impl Fn(usize) -> bool,
        calls: &mut Calls,
    ) {
        let States { by_value, by_feature, nu: to_nu, .. } = &mut calls.states;
        let features = self.of.config.features() as usize;
        let value_dim = self.of.config.value_dim as usize;
        let (count, mu_len) = (self.heads().len(), features * value_dim);
        let nu_len = if self.of.config.is_normalized() { features } else { 0 };
        for state in by_value.iter_mut().chain(by_feature.iter_mut()) {
            state.clear();
            state.resize(count * mu_len, 0.0);
        }
        to_nu.clear();
        to_nu.resize(count * nu_len, 0.0);
        for (i, h) in self.heads().enumerate().filter(|(_, h)| is_wanted(*h)) {
            let at = self.task.n * self.of.heads.value + self.of.heads.value_head(h);
            if let Some(mu) = mu {
                let mu = &mu[at * mu_len..][..mu_len];
                by_feature[0][i * mu_len..][..mu_len].copy_from_slice(mu);
                let by_value = &mut by_value[0][i * mu_len..][..mu_len];
                for (f, mu) in mu.chunks(value_dim).enumerate() {
                    for (v, x) in mu.iter().enumerate() {
                        by_value[v * features + f] = *x;
                    }
                }
            }
            if let Some(nu) = nu.filter(|_| nu_len > 0) {
                let nu = &nu[at * features..][..features];
                let to = &mut to_nu[i * nu_len..];
                to.iter_mut().zip(nu).for_each(|(to, x)| *to = f64::from(*x));
            }
        }
    }

    fn step(&self, step: Step, tokens: &Range<usize>, calls: &mut Calls, found: &mut MapGradients) {
        self.resize(&mut calls.rows, tokens.len());
        let Calls { rows, states, maps, .. } = calls;
        let memory = (rows, states, maps, found);
        self.engine.dispatch(Piece { sums: self, step, tokens: tokens.clone(), memory });
    }

    fn resize(&self, rows: &mut Rows, tokens: usize) {
        let config = self.of.config;
        let [key_dim, features] = [config.key_dim, config.features()].map(|n| n as usize);
        let value_dim = config.value_dim as usize;
        let (count, of) = (self.heads().len(), self.task_heads());
        for (rows, width) in [
            (&mut rows.keys, count * features),
            (&mut rows.queries, count * features),
            (&mut rows.gains, count),
            (&mut rows.nus, count * features),
            (&mut rows.values, count * value_dim),
            (&mut rows.of_rows, count * value_dim),
            (&mut rows.of_features, count * features),
            (&mut rows.of_values, count * value_dim),
            (&mut rows.to_elements, of.query.len().max(of.key.len()) * key_dim),
            (&mut rows.to_values, of.value.len() * value_dim),
        ] {
            rows.resize(tokens * width, 0.0);
        }
    }

    /// The heads of each tensor that the task has.
    #[inline(always)]
    fn task_heads(&self) -> TaskHeads {
        let (heads, outputs) = (&self.of.heads, self.heads());
        let value = self.task.values.clone();
        TaskHeads {
            query: heads.query_head(outputs.start)..heads.query_head(outputs.end - 1) + 1,
            key: heads.key_head(value.start)..heads.key_head(value.end - 1) + 1,
            value,
        }
    }
}

struct TaskHeads {
    query: Range<usize>,
    key: Range<usize>,
    value: Range<usize>,
}

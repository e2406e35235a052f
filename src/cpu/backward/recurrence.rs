//! Any rule, token by token: forward, keeping the state before every block of tokens, and then
//! block by block from the last to the first, the states of each computed again. Decays of rows
//! need it, which are no factors of products of rows; of a few tokens it is the fastest.

use std::ops::Range;
use std::sync::PoisonError;

use pulp::{Simd, WithSimd};

use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::targets;
use crate::cpu::backward::vectors::{DecayFactor, add, dot, scale};
use crate::cpu::backward::{Backward, MapGradients, Targets, Task};
use crate::cpu::block::row_factor;
use crate::cpu::fused::mul_add;

/// A task, in the vectors of a CPU.
pub(super) struct Recurrence<'a, 'b> {
    pub(super) of: &'a Backward<'b>,
    pub(super) task: &'a Task,
    pub(super) targets: &'a Targets<'b>,
}

impl WithSimd for Recurrence<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let mut found = self.of.map_gradients();
        let mut memory = HeadMemory::new(self.of, self.task.tokens.len());
        for e in self.task.values.clone() {
            self.run_head(e, &mut memory, &mut found);
        }
        *self.task.found.lock().unwrap_or_else(PoisonError::into_inner) = found;
    }
}

/// The memory of the tokens of a value head.
struct HeadMemory {
    /// Tokens of a block.
    block: usize,
    features: usize,
    value_dim: usize,
    /// nu's share of a state: F, or 0 where nothing is divided.
    nu_len: usize,
    /// The states before blocks, `[blocks, F V + nu]`.
    starts: Vec<f32>,
    /// The states after the tokens of a block, `[tokens, F V + nu]`.
    after: Vec<f32>,
    /// The gradient of the state.
    of_state: Vec<f32>,
    /// Features of the tokens of a block, and what enters, before beta.
    keys: Vec<f32>,
    values: Vec<f32>,
    query: Vec<f32>,
    /// The decays of a token, and exp(decay) of each row.
    decays: Vec<f32>,
    factors: Vec<DecayFactor>,
    /// Gradients by features.
    of_features: Vec<f32>,
    of_u: Vec<f32>,
    /// Gradients by rows of q or k, and by the decays of a token.
    of_row: Vec<f32>,
    of_decays: Vec<f32>,
    maps: MapMemory,
}

impl HeadMemory {
    fn new(of: &Backward<'_>, tokens: usize) -> Self {
        let config = of.config;
        let (features, value_dim) = (config.features() as usize, config.value_dim as usize);
        let nu_len = if config.is_normalized() { features } else { 0 };
        let state = features * value_dim + nu_len;
        let block = tokens.isqrt().clamp(16, 256).min(tokens.max(1));
        Self {
            block,
            features,
            value_dim,
            nu_len,
            starts: vec![0.0; tokens.div_ceil(block) * state],
            after: vec![0.0; block * state],
            of_state: vec![0.0; state],
            keys: vec![0.0; block * features],
            values: vec![0.0; block * value_dim],
            query: vec![0.0; features],
            decays: vec![0.0; config.decay_rows() as usize],
            factors: vec![
                DecayFactor::default();
                if config.decay_rows() > 0 { features } else { 0 }
            ],
            of_features: vec![0.0; features],
            of_u: vec![0.0; value_dim],
            of_row: vec![0.0; config.key_dim as usize],
            of_decays: vec![0.0; config.decay_rows() as usize],
            maps: MapMemory::default(),
        }
    }

    fn state_len(&self) -> usize {
        self.features * self.value_dim + self.nu_len
    }
}

impl Recurrence<'_, '_> {
    /// The gradients of value head e.
    #[inline(always)]
    fn run_head(&self, e: usize, memory: &mut HeadMemory, found: &mut MapGradients) {
        let Self { of, task, targets } = self;
        let len = memory.state_len();
        let at = task.n * of.heads.value + e;
        let mu_len = memory.features * memory.value_dim;
        let of_head = |slice: Option<&[f32]>, len: usize, to: &mut [f32]| match slice {
            Some(slice) if len > 0 => to.copy_from_slice(&slice[at * len..(at + 1) * len]),
            _ => to.fill(0.0),
        };
        let mut state = vec![0.0; len];
        let initial = of.inputs.initial_state;
        let nu_len = memory.nu_len;
        of_head(initial.map(|state| state.mu), mu_len, &mut state[..mu_len]);
        of_head(initial.map(|state| state.nu), nu_len, &mut state[mu_len..]);
        of_head(of.gradients.mu, mu_len, &mut memory.of_state[..mu_len]);
        of_head(of.gradients.nu, nu_len, &mut memory.of_state[mu_len..]);
        let blocks = task.tokens.clone().step_by(memory.block).enumerate();
        for (i, first) in blocks {
            memory.starts[i * len..][..len].copy_from_slice(&state);
            for t in first..task.tokens.end.min(first + memory.block) {
                self.enter([t, e, 0], memory, &mut state);
            }
        }
        let blocks = task.tokens.len().div_ceil(memory.block);
        for i in (0..blocks).rev() {
            let first = task.tokens.start + i * memory.block;
            let tokens = first..task.tokens.end.min(first + memory.block);
            state.copy_from_slice(&memory.starts[i * len..][..len]);
            for (j, t) in tokens.clone().enumerate() {
                self.enter([t, e, j], memory, &mut state);
                memory.after[j * len..][..len].copy_from_slice(&state);
            }
            for t in tokens.clone().rev() {
                self.leave([t, e], (i, &tokens), memory, found);
            }
        }
        let (of_mu, of_nu) = memory.of_state.split_at(mu_len);
        targets.mu.with_row(at, |mu| mu.copy_from_slice(of_mu));
        targets.nu.with_row(at, |nu| nu.copy_from_slice(of_nu));
    }

    /// Token t enters a state, as the j-th of a block.
    #[inline(always)]
    fn enter(&self, [t, e, j]: [usize; 3], memory: &mut HeadMemory, state: &mut [f32]) {
        self.load_decays([t, e], memory);
        let HeadMemory { features, value_dim, keys, values, factors, maps, .. } = memory;
        let (features, value_dim) = (*features, *value_dim);
        let key = &mut keys[j * features..][..features];
        let of = self.of;
        let rows = of.row_heads(e * of.heads.value_group);
        of.of_keys.row(of.key(t, &rows), rows.key, maps, key);
        let (mu, nu) = state.split_at_mut(features * value_dim);
        let value = &mut values[j * value_dim..][..value_dim];
        value.copy_from_slice(of.value(t, &rows));
        for (mu, factor) in mu.chunks_mut(value_dim).zip(&*factors) {
            mu.iter_mut().for_each(|mu| *mu = factor.times(*mu));
        }
        for (nu, factor) in nu.iter_mut().zip(&*factors) {
            *nu = factor.times(*nu);
        }
        let mut beta = 1.0;
        if self.of.config.update_rule.beta().is_some() {
            beta = self.of.gates.beta(t, e);
            for (k, mu) in key.iter().zip(mu.chunks(value_dim)) {
                add(value, -k, mu);
            }
        }
        for (k, mu) in key.iter().zip(mu.chunks_mut(value_dim)) {
            add(mu, beta * k, value);
        }
        for (nu, k) in nu.iter_mut().zip(key) {
            *nu += *k;
        }
    }

    /// Takes token t of a block out of the gradient of the state after it, which becomes
    /// that of the state before.
    #[inline(always)]
    fn leave(
        &self,
        [t, e]: [usize; 2],
        (block, tokens): (usize, &Range<usize>),
        memory: &mut HeadMemory,
        found: &mut MapGradients,
    ) {
        let Self { of, targets, .. } = self;
        let group = of.heads.value_group;
        for h in e * group..(e + 1) * group {
            self.read([t, h], t - tokens.start, memory, found);
        }
        self.load_decays([t, e], memory);
        let len = memory.state_len();
        let HeadMemory { features, value_dim, starts, after, of_state, keys, .. } = memory;
        let (features, value_dim) = (*features, *value_dim);
        let j = t - tokens.start;
        let before = match j {
            0 => &starts[block * len..][..len],
            _ => &after[(j - 1) * len..][..len],
        };
        let key = &keys[j * features..][..features];
        let entered = &memory.values[j * value_dim..][..value_dim];
        let (of_mu, of_nu) = of_state.split_at_mut(features * value_dim);
        let (of_key, of_u) = (&mut memory.of_features, &mut memory.of_u);
        let has_beta = self.of.config.update_rule.beta().is_some();
        let beta = self.of.gates.beta(t, e);
        of_u.fill(0.0);
        for (f, (of_mu, k)) in of_mu.chunks(value_dim).zip(key).enumerate() {
            add(of_u, *k, of_mu);
            of_key[f] = beta * dot(of_mu, entered);
        }
        for (of_key, of_nu) in of_key.iter_mut().zip(&*of_nu) {
            *of_key += *of_nu;
        }
        let factors = &memory.factors;
        if has_beta {
            let of_beta = dot(of_u, entered);
            targets.betas.with_row(t, |row| row[e] = of_beta);
            scale(of_u, beta);
            let rows = of_mu.chunks_mut(value_dim).zip(before.chunks(value_dim)).zip(key);
            for (f, ((of_mu, before), k)) in rows.enumerate() {
                let a = factors.get(f).map_or(1.0, |factor| factor.value());
                of_key[f] -= a * dot(before, of_u);
                add(of_mu, -k, of_u);
            }
        }
        targets.v.with_row(t, |row| targets::add(&mut row[e * value_dim..][..value_dim], of_u));
        if !factors.is_empty() {
            let rows = self.of.config.decay_rows() as usize;
            let of_decays = &mut memory.of_decays;
            of_decays.fill(0.0);
            let (before_mu, before_nu) = before.split_at(features * value_dim);
            for (f, factor) in factors.iter().enumerate() {
                let of_mu = &mut of_mu[f * value_dim..][..value_dim];
                let mut of_decay = dot(of_mu, &before_mu[f * value_dim..][..value_dim]);
                of_mu.iter_mut().for_each(|of_mu| *of_mu = factor.times(*of_mu));
                if let Some(of_nu) = of_nu.get_mut(f) {
                    of_decay = mul_add(*of_nu, before_nu[f], of_decay);
                    *of_nu = factor.times(*of_nu);
                }
                of_decays[f % rows] += factor.value() * of_decay;
            }
            targets.decays.with_row(t, |row| row[e * rows..][..rows].copy_from_slice(of_decays));
        }
        let (rows, of_row) = (of.row_heads(e * group), &mut memory.of_row);
        of_row.fill(0.0);
        let to = (&mut of_row[..], &mut found.of_keys);
        let row = (of.key(t, &rows), key, 1.0);
        of.of_keys.pull_back(row, rows.key, &mut memory.maps, of_key, to);
        let column = rows.key * of_row.len();
        targets.k.with_row(t, |row| targets::add(&mut row[column..][..of_row.len()], of_row));
    }

    /// Takes the gradient of the row of o of output head h to its query and to the state that it
    /// read.
    #[inline(always)]
    fn read(
        &self,
        [t, h]: [usize; 2],
        j: usize,
        memory: &mut HeadMemory,
        found: &mut MapGradients,
    ) {
        let Self { of, targets, .. } = self;
        let len = memory.state_len();
        let HeadMemory { features, value_dim, after, of_state, query, of_features, maps, .. } =
            memory;
        let (features, value_dim) = (*features, *value_dim);
        let rows = of.row_heads(h);
        let (x, head) = (of.query(t, &rows), rows.weights);
        let gain = of.of_queries.row(x, head, maps, query);
        let (mu, nu) = after[j * len..][..len].split_at(features * value_dim);
        let (of_mu, of_nu) = of_state.split_at_mut(features * value_dim);
        let weight = if nu.is_empty() { 0.0 } else { dot(query, nu) };
        let factor = row_factor(self.of.config, weight, gain);
        if factor == 0.0 {
            return;
        }
        let of_o = of.of_output(t, &rows);
        let of_rows = mu.chunks(value_dim).zip(of_mu.chunks_mut(value_dim));
        let mut taken = 0.0;
        for ((mu, of_mu), (q, product)) in of_rows.zip(query.iter().zip(&mut *of_features)) {
            *product = dot(mu, of_o);
            taken = mul_add(*q, *product, taken);
            add(of_mu, factor * q, of_o);
        }
        // do . o, which the denominator takes away.
        taken *= factor;
        for (f, product) in of_features.iter_mut().enumerate() {
            *product *= factor;
            if let (Some(nu), Some(of_nu)) = (nu.get(f), of_nu.get_mut(f)) {
                *product -= factor * taken * nu;
                *of_nu -= factor * taken * query[f];
            }
        }
        let of_row = &mut memory.of_row;
        of_row.fill(0.0);
        of.pull_back_query((x, head), (query, gain), maps, of_features, (of_row, found));
        let column = rows.query * of_row.len();
        targets.q.with_row(t, |row| targets::add(&mut row[column..][..of_row.len()], of_row));
    }

    /// The factors of a token, of each row.
    #[inline(always)]
    fn load_decays(&self, [t, e]: [usize; 2], memory: &mut HeadMemory) {
        let HeadMemory { decays, factors, .. } = memory;
        self.of.gates.decays(t, e, decays);
        match decays[..] {
            [] => {}
            [decay] => factors.fill(DecayFactor::new(decay)),
            _ => {
                for (factor, decay) in factors.iter_mut().zip(decays) {
                    *factor = DecayFactor::new(*decay);
                }
            }
        }
    }
}

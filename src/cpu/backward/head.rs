//! A value head of a sequence, forward and back.

use std::ops::Range;

use crate::cpu::backward::maps::MapMemory;
use crate::cpu::backward::{Backward, Task, TaskGradients};
use crate::cpu::block::row_factor;
use crate::cpu::fused::mul_add;

/// The memory of the tokens of a value head.
pub(super) struct HeadMemory {
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
    /// exp(decay) - 1 of a token, of each row.
    kept: Vec<f32>,
    /// Gradients by features.
    of_features: Vec<f32>,
    of_u: Vec<f32>,
    maps: MapMemory,
}

impl HeadMemory {
    pub(super) fn new(of: &Backward<'_>, tokens: usize) -> Self {
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
            kept: vec![0.0; if config.decay_rows() > 0 { features } else { 0 }],
            of_features: vec![0.0; features],
            of_u: vec![0.0; value_dim],
            maps: MapMemory::default(),
        }
    }

    fn state_len(&self) -> usize {
        self.features * self.value_dim + self.nu_len
    }
}

impl Backward<'_> {
    /// The gradients of value head e.
    #[inline(always)]
    pub(super) fn run_head(
        &self,
        task: &Task,
        e: usize,
        memory: &mut HeadMemory,
        found: &mut TaskGradients,
    ) {
        let len = memory.state_len();
        let at = task.n * self.heads.value + e;
        let mu_len = memory.features * memory.value_dim;
        let of_head = |slice: Option<&[f32]>, len: usize, to: &mut [f32]| match slice {
            Some(slice) if len > 0 => to.copy_from_slice(&slice[at * len..(at + 1) * len]),
            _ => to.fill(0.0),
        };
        let mut state = vec![0.0; len];
        let initial = self.inputs.initial_state;
        let nu_len = memory.nu_len;
        of_head(initial.map(|state| state.mu), mu_len, &mut state[..mu_len]);
        of_head(initial.map(|state| state.nu), nu_len, &mut state[mu_len..]);
        of_head(self.gradients.mu, mu_len, &mut memory.of_state[..mu_len]);
        of_head(self.gradients.nu, nu_len, &mut memory.of_state[mu_len..]);
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
                self.leave(task, [t, e], (i, &tokens), memory, found);
            }
        }
        let of_task = e - self.value_heads(task.key_head).start;
        found.mu[of_task * mu_len..][..mu_len].copy_from_slice(&memory.of_state[..mu_len]);
        found.nu[of_task * nu_len..][..nu_len].copy_from_slice(&memory.of_state[mu_len..]);
    }

    /// Token t enters a state, as the j-th of a block.
    #[inline(always)]
    fn enter(&self, [t, e, j]: [usize; 3], memory: &mut HeadMemory, state: &mut [f32]) {
        let HeadMemory { features, value_dim, keys, values, kept, maps, .. } = memory;
        let (features, value_dim) = (*features, *value_dim);
        let key = &mut keys[j * features..][..features];
        let x = &self.inputs.k[self.heads.key(t, e)..][..self.config.key_dim as usize];
        self.of_keys.row(x, self.heads.key_head(e), maps, key);
        self.fill_kept([t, e], kept);
        let (mu, nu) = state.split_at_mut(features * value_dim);
        let value = &mut values[j * value_dim..][..value_dim];
        value.copy_from_slice(&self.inputs.v[self.heads.value(t, e)..][..value_dim]);
        for (f, mu) in mu.chunks_mut(value_dim).enumerate().take(kept.len()) {
            scale(mu, 1.0 + kept[f]);
        }
        for (nu, kept) in nu.iter_mut().zip(&*kept) {
            *nu = mul_add(*kept, *nu, *nu);
        }
        let mut beta = 1.0;
        if self.config.update_rule.beta().is_some() {
            beta = self.gates.beta(t, e);
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

    /// What the token t of a block has to do with the gradient of the state after it, which becomes
    /// that of the state before.
    #[inline(always)]
    fn leave(
        &self,
        task: &Task,
        [t, e]: [usize; 2],
        (block, tokens): (usize, &Range<usize>),
        memory: &mut HeadMemory,
        found: &mut TaskGradients,
    ) {
        let values = self.value_heads(task.key_head);
        let outputs = self.output_heads(&values);
        let (key_dim, group) = (self.config.key_dim as usize, self.heads.value_group);
        let of_task = t - task.tokens.start;
        for h in e * group..(e + 1) * group {
            let at = of_task * outputs.len() + h - outputs.start;
            let of_query = &mut found.q[at * key_dim..][..key_dim];
            let of_weights = match self.of_queries.phi().shares_key_weights() {
                true => &mut found.of_keys,
                false => &mut found.of_queries,
            };
            self.read([t, h, e], t - tokens.start, memory, (of_query, of_weights));
        }
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
        let has_beta = self.config.update_rule.beta().is_some();
        let beta = self.gates.beta(t, e);
        of_u.fill(0.0);
        for (f, (of_mu, k)) in of_mu.chunks(value_dim).zip(key).enumerate() {
            add(of_u, *k, of_mu);
            of_key[f] = beta * dot(of_mu, entered);
        }
        for (of_key, of_nu) in of_key.iter_mut().zip(&*of_nu) {
            *of_key += *of_nu;
        }
        self.fill_kept([t, e], &mut memory.kept);
        let kept = &memory.kept;
        let at = of_task * values.len() + e - values.start;
        if has_beta {
            found.betas[at] = dot(of_u, entered);
            scale(of_u, beta);
            let rows = of_mu.chunks_mut(value_dim).zip(before.chunks(value_dim)).zip(key);
            for (f, ((of_mu, before), k)) in rows.enumerate() {
                let a = 1.0 + kept.get(f).copied().unwrap_or(0.0);
                of_key[f] -= a * dot(before, of_u);
                add(of_mu, -k, of_u);
            }
        }
        super::add(&mut found.v[at * value_dim..][..value_dim], of_u);
        if !kept.is_empty() {
            let rows = self.config.decay_rows() as usize;
            let of_decays = &mut found.decays[at * rows..][..rows];
            let (before_mu, before_nu) = before.split_at(features * value_dim);
            for (f, kept) in kept.iter().enumerate() {
                let of_mu = &mut of_mu[f * value_dim..][..value_dim];
                let mut of_decay = dot(of_mu, &before_mu[f * value_dim..][..value_dim]);
                scale(of_mu, 1.0 + kept);
                if let Some(of_nu) = of_nu.get_mut(f) {
                    of_decay = mul_add(*of_nu, before_nu[f], of_decay);
                    *of_nu *= 1.0 + kept;
                }
                of_decays[f % rows] += (1.0 + kept) * of_decay;
            }
        }
        let x = &self.inputs.k[self.heads.key(t, e)..][..key_dim];
        let of_row = &mut found.k[of_task * key_dim..][..key_dim];
        let to = (of_row, &mut found.of_keys);
        let head = self.heads.key_head(e);
        self.of_keys.pull_back((x, key, 1.0), head, &mut memory.maps, of_key, to);
    }

    /// What the row of o of output head h has to do with its query and with the state that it read.
    #[inline(always)]
    fn read(
        &self,
        [t, h, e]: [usize; 3],
        j: usize,
        memory: &mut HeadMemory,
        to: (&mut [f32], &mut crate::problem::feature_map::phi::WeightGradients),
    ) {
        let len = memory.state_len();
        let HeadMemory { features, value_dim, after, of_state, query, of_features, maps, .. } =
            memory;
        let (features, value_dim) = (*features, *value_dim);
        let x = &self.inputs.q[self.heads.query(t, h)..][..self.config.key_dim as usize];
        let head =
            self.of_queries.phi().weights_head(self.heads.query_head(h), self.heads.key_head(e));
        let gain = self.of_queries.row(x, head, maps, query);
        let (mu, nu) = after[j * len..][..len].split_at(features * value_dim);
        let (of_mu, of_nu) = of_state.split_at_mut(features * value_dim);
        let weight = if nu.is_empty() { 0.0 } else { dot(query, nu) };
        let factor = row_factor(self.config, weight, gain);
        if factor == 0.0 {
            return;
        }
        let of_o = &self.gradients.o[self.heads.output(t, h)..][..value_dim];
        let rows = mu.chunks(value_dim).zip(of_mu.chunks_mut(value_dim));
        let mut taken = 0.0;
        for ((mu, of_mu), (q, product)) in rows.zip(query.iter().zip(&mut *of_features)) {
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
        self.of_queries.pull_back((x, query, gain), head, maps, of_features, to);
    }

    /// exp(decay) - 1 of each row.
    #[inline(always)]
    fn fill_kept(&self, [t, e]: [usize; 2], kept: &mut [f32]) {
        match (self.config.decay_rows(), kept) {
            (0, _) | (_, []) => {}
            (1, [first, rest @ ..]) => {
                self.gates.kept(t, e, std::slice::from_mut(first));
                rest.fill(*first);
            }
            (_, kept) => self.gates.kept(t, e, kept),
        }
    }
}

/// `to += factor x`.
#[inline(always)]
fn add(to: &mut [f32], factor: f32, x: &[f32]) {
    for (to, x) in to.iter_mut().zip(x) {
        *to = mul_add(factor, *x, *to);
    }
}

#[inline(always)]
fn scale(x: &mut [f32], by: f32) {
    for x in x {
        *x *= by;
    }
}

/// In sixteen sums, which are vectors.
#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    const N: usize = 16;
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<N>(), b.as_chunks::<N>());
    let mut sums = [0.0f32; N];
    for (a, b) in a.iter().zip(b) {
        for i in 0..N {
            sums[i] = mul_add(a[i], b[i], sums[i]);
        }
    }
    let mut half = [0.0f32; N / 2];
    for i in 0..N / 2 {
        half[i] = sums[i] + sums[i + N / 2];
    }
    let mut sum =
        (half[0] + half[4]) + (half[1] + half[5]) + ((half[2] + half[6]) + (half[3] + half[7]));
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum = mul_add(*a, *b, sum);
    }
    sum
}

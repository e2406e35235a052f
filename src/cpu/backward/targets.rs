//! Gradients, in rows that threads share.

use crate::cpu::backward::Backward;
use crate::cpu::shared::Shared;
use crate::problem::gradients::Gradients;

/// Tokens of a part: threads go through tokens at about the same time.
const TOKENS_OF_PART: usize = 32;

/// Gradients by each tensor, of which a row has all heads of a token.
pub(super) struct Targets<'a> {
    /// `[tokens,H,K]`.
    pub(super) q: Shared<'a, f32>,
    /// `[tokens,G,K]`.
    pub(super) k: Shared<'a, f32>,
    /// `[tokens,E,V]`.
    pub(super) v: Shared<'a, f32>,
    /// By the decays in log space, `[tokens,E,rows]`, and by the betas, `[tokens,E]`.
    pub(super) decays: Shared<'a, f32>,
    pub(super) betas: Shared<'a, f32>,
    /// Of which a row is a head's: `[N,E,F,V]` and `[N,E,F]`.
    pub(super) mu: Shared<'a, f32>,
    pub(super) nu: Shared<'a, f32>,
}

impl<'a> Targets<'a> {
    pub(super) fn new(
        of: &Backward<'_>,
        [q, k, v, decays, betas]: [&'a mut Vec<f32>; 5],
        [mu, nu]: [&'a mut Vec<f32>; 2],
    ) -> Self {
        let (config, heads) = (of.config, &of.heads);
        let (key_dim, value_dim) = (config.key_dim as usize, config.value_dim as usize);
        let features = config.features() as usize;
        let rows = |slice: &'a mut [f32], len: usize| {
            let len = len.max(1);
            let parts = slice.chunks_mut(len * TOKENS_OF_PART);
            Shared::new(parts, (len, TOKENS_OF_PART), &mut Vec::new())
        };
        Self {
            q: rows(q, heads.query_heads() * key_dim),
            k: rows(k, heads.key * key_dim),
            v: rows(v, heads.value * value_dim),
            decays: rows(decays, heads.value * config.decay_rows() as usize),
            betas: rows(betas, heads.value),
            mu: Shared::rows(mu, features * value_dim, &mut Vec::new()),
            nu: Shared::rows(nu, features, &mut Vec::new()),
        }
    }
}

/// Adds gradients by contiguous rows up in the rows of tensors with strides.
pub(super) fn scatter(
    of: &Backward<'_>,
    tokens: usize,
    [q, k, v]: &[Vec<f32>; 3],
    found: &mut Gradients<f32>,
) {
    let (key_dim, value_dim) = (of.config.key_dim as usize, of.config.value_dim as usize);
    let heads = &of.heads;
    for (to, rows, from, count, width) in [
        (&mut found.q, heads.q, q, heads.query_heads(), key_dim),
        (&mut found.k, heads.k, k, heads.key, key_dim),
        (&mut found.v, heads.v, v, heads.value, value_dim),
    ] {
        let all = (0..tokens).flat_map(|t| (0..count).map(move |head| (t, head)));
        for ((t, head), from) in all.zip(from.chunks(width)) {
            add(&mut to[rows.begin(t, head)..], from);
        }
    }
}

#[inline(always)]
pub(super) fn add(to: &mut [f32], from: &[f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to += from;
    }
}

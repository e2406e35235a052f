//! One token on a state in place, which is read once and written once.

use pulp::{Simd, WithSimd};

use crate::cpu::block::row_factor;
use crate::cpu::call::Call;
use crate::cpu::features::{RowBuffer, Source};
use crate::cpu::fused::mul_add;
use crate::cpu::pairs::dot;
use crate::cpu::rows::queries_of;
use crate::cpu::tiles;
use crate::problem::config::{Config, Gating};

/// The memory that a thread needs for a token of a value head.
#[derive(Debug)]
pub(super) struct Step {
    key: Vec<f32>,
    query: Vec<f32>,
    /// exp(decay) - 1 of each row; empty without decays.
    kept: Vec<f32>,
    /// u `[V]`.
    values: Vec<f32>,
    /// A row of q or k.
    row: RowBuffer,
}

/// A token t of value head e: it enters the state, mu `[F,V]` and nu `[F]`, and its rows of o are
/// computed, `[output heads of e][V]`.
pub(super) struct Token<'a, 'b> {
    pub(super) step: &'a mut Step,
    pub(super) call: &'a Call<'b>,
    pub(super) tokens: [usize; 2],
    pub(super) state: (&'a mut [f32], &'a mut [f32]),
    pub(super) o: &'a mut [f32],
}

impl WithSimd for Token<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { step, call, tokens, state, o } = self;
        step.run(simd, call, tokens, state, o);
    }
}

impl Step {
    pub(super) fn new(config: &Config) -> Self {
        let features = config.features() as usize;
        Self {
            key: vec![0.0; features],
            query: vec![0.0; features],
            kept: vec![0.0; if config.decay_rows() > 0 { features } else { 0 }],
            values: vec![0.0; config.value_dim as usize],
            row: RowBuffer::new(config),
        }
    }

    #[inline(always)]
    fn run<S: Simd>(
        &mut self,
        simd: S,
        call: &Call<'_>,
        [t, e]: [usize; 2],
        (mu, nu): (&mut [f32], &mut [f32]),
        o: &mut [f32],
    ) {
        let (config, heads) = (call.config, &call.heads);
        let value_dim = self.values.len();
        let source =
            Source { slice: call.k, dtype: config.dtype, first: heads.key(t, e), stride: 0 };
        call.of_keys.row(source, heads.key_head(e), &mut self.row, &mut self.key);
        call.v.copy(heads.value(t, e), config.dtype, &mut self.values);
        match (config.gates(), self.kept.as_mut_slice()) {
            (None, _) | (_, []) => {}
            (Some(Gating::PerRow), kept) => call.gates.kept(t, e, kept),
            (_, [first, rest @ ..]) => {
                call.gates.kept(t, e, std::slice::from_mut(first));
                rest.fill(*first);
            }
        }
        for (f, (nu, k)) in nu.iter_mut().zip(&self.key).enumerate() {
            let kept = self.kept.get(f).copied().unwrap_or(0.0);
            *nu = mul_add(kept, *nu, *nu) + k;
        }
        let beta = config.update_rule.beta().map(|_| call.gates.beta(t, e));
        for (h, o) in o.chunks_mut(value_dim).enumerate() {
            let output_head = e * heads.value_group + h;
            let (source, head) = queries_of(call, t, output_head);
            let gain = call.of_queries.row(source, head, &mut self.row, &mut self.query);
            let weight = if nu.is_empty() { 0.0 } else { dot(&self.query, nu) };
            if h == 0 {
                self.write_and_read(simd, beta, mu, o);
            } else {
                self.read(mu, o);
            }
            let factor = row_factor(config, weight, gain);
            for o in o {
                *o *= factor;
            }
        }
    }

    /// The update of all columns, and their outputs.
    #[inline(always)]
    fn write_and_read<S: Simd>(
        &mut self,
        simd: S,
        beta: Option<f32>,
        mu: &mut [f32],
        o: &mut [f32],
    ) {
        let mut begin = 0;
        begin = self.write_and_read_by::<S, 8>(simd, beta, mu, o, begin);
        begin = self.write_and_read_by::<S, 4>(simd, beta, mu, o, begin);
        begin = self.write_and_read_by::<S, 2>(simd, beta, mu, o, begin);
        begin = self.write_and_read_by::<S, 1>(simd, beta, mu, o, begin);
        for (c, o) in o.iter_mut().enumerate().skip(begin) {
            self.write_and_read_column(beta, mu, o, c);
        }
    }

    /// The same for as many columns from `begin` on as N vectors at a time can have; returns where
    /// they end.
    #[inline(always)]
    fn write_and_read_by<S: Simd, const N: usize>(
        &mut self,
        simd: S,
        beta: Option<f32>,
        mu: &mut [f32],
        o: &mut [f32],
        mut begin: usize,
    ) -> usize {
        let (value_dim, len) = (o.len(), N * S::F32_LANES);
        while begin + len <= value_dim {
            let columns = begin..begin + len;
            let mut u = load::<S, N>(simd, &self.values[columns.clone()]);
            let rows = || self.key.iter().zip(&self.query).enumerate();
            let kept = |f: usize| self.kept.get(f).copied();
            if let Some(beta) = beta {
                let mut recalled = [simd.splat_f32s(0.0); N];
                for (f, (k, _)) in rows() {
                    let row = &mu[f * value_dim..][columns.clone()];
                    let k = kept(f).map_or(*k, |kept| mul_add(kept, *k, *k));
                    tiles::add(simd, k, &load::<S, N>(simd, row), &mut recalled);
                }
                for (u, recalled) in u.iter_mut().zip(recalled) {
                    *u = simd.sub_f32s(*u, recalled);
                }
                u = tiles::scale(simd, beta, u);
            }
            let mut sums = [simd.splat_f32s(0.0); N];
            for (f, (k, q)) in rows() {
                let row = &mut mu[f * value_dim..][columns.clone()];
                let mut x = load::<S, N>(simd, row);
                if let Some(kept) = kept(f) {
                    let before = x;
                    tiles::add(simd, kept, &before, &mut x);
                }
                tiles::add(simd, *k, &u, &mut x);
                tiles::add(simd, *q, &x, &mut sums);
                store::<S, N>(row, x);
            }
            store::<S, N>(&mut o[columns], sums);
            begin += len;
        }
        begin
    }

    /// The same for one column.
    #[inline(always)]
    fn write_and_read_column(&self, beta: Option<f32>, mu: &mut [f32], o: &mut f32, c: usize) {
        let value_dim = self.values.len();
        let kept = |f: usize| self.kept.get(f).copied().unwrap_or(0.0);
        let mut u = self.values[c];
        if let Some(beta) = beta {
            for (f, (x, k)) in mu.iter().skip(c).step_by(value_dim).zip(&self.key).enumerate() {
                u -= mul_add(kept(f), *k, *k) * x;
            }
            u *= beta;
        }
        *o = 0.0;
        let column = mu.iter_mut().skip(c).step_by(value_dim);
        for (f, (x, (k, q))) in column.zip(self.key.iter().zip(&self.query)).enumerate() {
            *x = mul_add(*k, u, mul_add(kept(f), *x, *x));
            *o = mul_add(*q, *x, *o);
        }
    }

    /// The outputs of another query of the same value head.
    #[inline(always)]
    fn read(&self, mu: &[f32], o: &mut [f32]) {
        o.fill(0.0);
        for (row, q) in mu.chunks(o.len()).zip(&self.query) {
            for (o, x) in o.iter_mut().zip(row) {
                *o = mul_add(*q, *x, *o);
            }
        }
    }
}

#[inline(always)]
fn load<S: Simd, const N: usize>(simd: S, from: &[f32]) -> [S::f32s; N] {
    let mut vectors = [simd.splat_f32s(0.0); N];
    for (x, from) in vectors.iter_mut().zip(S::as_simd_f32s(from).0) {
        *x = *from;
    }
    vectors
}

#[inline(always)]
fn store<S: Simd, const N: usize>(to: &mut [f32], x: [S::f32s; N]) {
    for (to, x) in S::as_mut_simd_f32s(to).0.iter_mut().zip(x) {
        *to = x;
    }
}

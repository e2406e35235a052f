//! The record of a value head of a sequence, and how two of them join.

use crate::error::Error;
use crate::problem::config::Config;

/// The layout of a record of a [`Summary`](crate::summary::Summary), one for each value head of
/// each sequence, in f32:
///
/// | rule | record | elements |
/// | --- | --- | --- |
/// | linear | mu `[F,V]`, nu `[F]` where o is normalised | F V, or F (V + 1) |
/// | gated | the same, and the sum of the decays, in log space, of the head or of each row | 1 or F more |
/// | delta, gated-delta | mu `[F,V]`, matrix `[F,F]` | F (V + F) |
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    features: usize,
    value_dim: usize,
    has_nu: bool,
    /// Sums of decays: 0, 1 or F.
    rows: usize,
    has_matrix: bool,
}

impl Form {
    /// The layout for a config.
    ///
    /// # Errors
    ///
    /// A config out of range.
    pub fn of(config: &Config) -> Result<Self, Error> {
        config.validate()?;
        let has_matrix = config.update_rule.beta().is_some();
        Ok(Self {
            features: config.features() as usize,
            value_dim: config.value_dim as usize,
            has_nu: config.is_normalized(),
            rows: if has_matrix { 0 } else { config.decay_rows() as usize },
            has_matrix,
        })
    }

    /// Elements of a record.
    #[must_use]
    pub fn record_len(&self) -> usize {
        let nu = if self.has_nu { self.features } else { 0 };
        let matrix = if self.has_matrix { self.features * self.features } else { 0 };
        self.mu_len() + nu + self.rows + matrix
    }

    /// Joins records: each of `later` becomes that of its piece behind the piece of the record of
    /// `earlier` in the same place. It is associative but for rounding, and not commutative. With
    /// `a` the exponential of a sum of decays, or the matrix,
    ///
    /// ```text
    /// mu = a_later mu_earlier + mu_later      nu alike
    /// a  = a_later a_earlier
    /// ```
    ///
    /// Products are summed in f64, and rounded once.
    ///
    /// # Errors
    ///
    /// [`Error::Summary`] for slices of different lengths, or that are not whole records. Nothing is
    /// written then.
    pub fn join(&self, earlier: &[f32], later: &mut [f32]) -> Result<(), Error> {
        let refuse = |required: usize, actual: usize| {
            let [required, actual] = [required, actual].map(|len| len.to_string());
            Err(Error::Summary { what: "elements of records", required, actual })
        };
        let len = self.record_len();
        if later.len() != earlier.len() {
            return refuse(earlier.len(), later.len());
        }
        if !later.len().is_multiple_of(len) {
            return refuse(later.len().next_multiple_of(len), later.len());
        }
        if self.has_matrix {
            self.join_products(earlier, later);
            return Ok(());
        }
        for (earlier, later) in earlier.chunks(len).zip(later.chunks_mut(len)) {
            self.join_sums(earlier, later);
        }
        Ok(())
    }

    /// Joins the records of delta rules, on all threads of the rayon pool that the call is made in.
    #[cfg(feature = "rayon")]
    fn join_products(&self, earlier: &[f32], later: &mut [f32]) {
        use rayon::prelude::*;

        let len = self.record_len();
        let records = earlier.par_chunks(len).zip(later.par_chunks_mut(len));
        records.for_each_init(Memory::default, |memory, (earlier, later)| {
            self.join_matrices(earlier, later, memory);
        });
    }

    /// Joins the records of delta rules.
    #[cfg(not(feature = "rayon"))]
    fn join_products(&self, earlier: &[f32], later: &mut [f32]) {
        let len = self.record_len();
        let mut memory = Memory::default();
        for (earlier, later) in earlier.chunks(len).zip(later.chunks_mut(len)) {
            self.join_matrices(earlier, later, &mut memory);
        }
    }

    /// Elements of mu in a record.
    pub(crate) fn mu_len(&self) -> usize {
        self.features * self.value_dim
    }

    /// Elements of nu in a record.
    pub(crate) fn nu_len(&self) -> usize {
        if self.has_nu { self.features } else { 0 }
    }

    pub(crate) fn has_matrix(&self) -> bool {
        self.has_matrix
    }

    /// mu, nu, and the sums of decays or the matrix of a record.
    pub(crate) fn parts<'a>(&self, record: &'a [f32]) -> [&'a [f32]; 3] {
        let (mu, rest) = record.split_at(self.mu_len().min(record.len()));
        let (nu, rest) = rest.split_at(self.nu_len().min(rest.len()));
        [mu, nu, rest]
    }

    /// The same to write.
    pub(crate) fn parts_mut<'a>(&self, record: &'a mut [f32]) -> [&'a mut [f32]; 3] {
        let (mu, rest) = record.split_at_mut(self.mu_len().min(record.len()));
        let (nu, rest) = rest.split_at_mut(self.nu_len().min(rest.len()));
        [mu, nu, rest]
    }

    /// The record of a piece without tokens.
    pub(crate) fn fill_empty(&self, record: &mut [f32]) {
        record.fill(0.0);
        if self.has_matrix {
            let [.., matrix] = self.parts_mut(record);
            matrix.iter_mut().step_by(self.features + 1).for_each(|x| *x = 1.0);
        }
    }

    /// Clears the factor of the state before a record's piece.
    pub(crate) fn forget(&self, record: &mut [f32]) {
        let [.., carried] = self.parts_mut(record);
        carried.fill(if self.has_matrix { 0.0 } else { f32::NEG_INFINITY });
    }

    /// Transposes the matrix of a record, if it has one.
    pub(crate) fn transpose(&self, record: &mut [f32]) {
        if !self.has_matrix {
            return;
        }
        let n = self.features;
        let [.., matrix] = self.parts_mut(record);
        for i in 0..n {
            for j in i + 1..n {
                matrix.swap(i * n + j, j * n + i);
            }
        }
    }

    fn join_sums(&self, earlier: &[f32], later: &mut [f32]) {
        let [mu_before, nu_before, decays_before] = self.parts(earlier);
        let [mu, nu, decays] = self.parts_mut(later);
        let rows = mu.chunks_mut(self.value_dim).zip(mu_before.chunks(self.value_dim));
        for (f, (mu, before)) in rows.enumerate() {
            let decay = decays.get(f).or(decays.first());
            let kept = decay.map_or(1.0, |decay| f64::from(*decay).exp());
            let join = |x: &mut f32, before: f32| {
                *x = (kept * f64::from(before) + f64::from(*x)) as f32;
            };
            mu.iter_mut().zip(before).for_each(|(mu, before)| join(mu, *before));
            if let Some((nu, before)) = nu.get_mut(f).zip(nu_before.get(f)) {
                join(nu, *before);
            }
        }
        decays.iter_mut().zip(decays_before).for_each(|(sum, before)| *sum += before);
    }

    fn join_matrices(&self, earlier: &[f32], later: &mut [f32], memory: &mut Memory) {
        let (n, value_dim) = (self.features, self.value_dim);
        let [mu_before, _, matrix_before] = self.parts(earlier);
        let [mu, _, matrix] = self.parts_mut(later);
        // A piece after a known state has a zero matrix, and one after zeros keeps its own state.
        let is_zero = |x: &[f32]| x.iter().all(|x| *x == 0.0);
        let (is_known, adds_nothing) = (is_zero(matrix_before), is_zero(mu_before));
        for (row, mu) in matrix.chunks_mut(n).zip(mu.chunks_mut(value_dim)) {
            if !adds_nothing {
                memory.product(row, mu_before, Some(mu));
                memory.sums.iter().zip(mu).for_each(|(sum, mu)| *mu = *sum as f32);
            }
            if is_known {
                row.fill(0.0);
                continue;
            }
            memory.product(row, matrix_before, None);
            memory.sums.iter().zip(row).for_each(|(sum, x)| *x = *sum as f32);
        }
    }
}

/// Rows of a product that are added up together.
const ROWS: usize = 4;

/// The memory of a product.
#[derive(Default)]
struct Memory {
    sums: Vec<f64>,
}

impl Memory {
    /// Multiplies a row by a matrix, and adds the product to `added`.
    fn product(&mut self, row: &[f32], matrix: &[f32], added: Option<&mut [f32]>) {
        let columns = matrix.len() / row.len().max(1);
        self.sums.clear();
        match added {
            Some(added) => self.sums.extend(added.iter().map(|x| f64::from(*x))),
            None => self.sums.resize(columns, 0.0),
        }
        // Four rows at a time: the sums are loaded and stored once for them.
        let (of_four, rest) = row.as_chunks::<ROWS>();
        let of_rows = matrix.split_at((row.len() - rest.len()) * columns);
        for (x, rows) in of_four.iter().zip(of_rows.0.chunks((ROWS * columns).max(1))) {
            // Most of the matrix of few tokens, or of none.
            if *x == [0.0; ROWS] {
                continue;
            }
            let x = x.map(f64::from);
            let (y, rows) = rows.split_at(columns);
            let (z, rows) = rows.split_at(columns);
            let (v, w) = rows.split_at(columns);
            for ((((sum, y), z), v), w) in self.sums.iter_mut().zip(y).zip(z).zip(v).zip(w) {
                let [y, z, v, w] = [*y, *z, *v, *w].map(f64::from);
                *sum += (x[0] * y + x[1] * z) + (x[2] * v + x[3] * w);
            }
        }
        for (x, of_row) in rest.iter().zip(of_rows.1.chunks(columns.max(1))) {
            let x = f64::from(*x);
            self.sums.iter_mut().zip(of_row).for_each(|(sum, y)| *sum += x * f64::from(*y));
        }
    }
}

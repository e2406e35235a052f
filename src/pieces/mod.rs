//! Summaries: the change that a piece of a sequence makes to a state, and the join of two.

pub(crate) mod columns;
pub(crate) mod form;

use crate::error::{Error, PlanError, PoolError};
use crate::problem::config::Config;
use crate::problem::gates::decay_sums;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::{Packing, Shape};
use crate::problem::state::StateSlices;
use crate::serve::snapshot::Header;

use form::Form;

/// The change that a piece of N sequences makes to their states.
///
/// The tokens of a piece change any state before them by an affine map:
///
/// ```text
/// mu_after = a mu_before + mu      nu_after = a nu_before + nu
/// ```
///
/// with `mu` and `nu` the state that the piece ends with from zero. `a` is 1 for the rule linear,
/// the exponential of the sum of the decays for gated, and a matrix `[F,F]`, the product of the
/// tokens' `(I - beta k'^T k') diag(exp(decay))`, for delta rules. A [`Summary`] is that map, of
/// each value head of each sequence. It has the same size however many tokens the piece has, and
/// two of them join to the summary of both pieces.
///
/// So machines that each have a piece of a sequence exchange summaries, and no keys: each
/// summarises its piece, joins the summaries of those before it, and computes its outputs from the
/// resulting state. The transport is the caller's; the package `linear-attention-mpi` is one over
/// MPI.
///
/// ```
/// use linear_attention::cpu::CpuAttention;
/// use linear_attention::{Config, Inputs, Shape};
///
/// let engine = CpuAttention::new(Config::new(16, 16))?;
/// let x: Vec<f32> = (0..60 * 2 * 16).map(|i| (i as f32 * 0.37).sin()).collect();
/// let piece = |tokens: std::ops::Range<usize>| {
///     let (shape, rows) = (Shape::new(1, tokens.len() as u32, 2), &x[tokens.start * 32..tokens.end * 32]);
///     (shape, Inputs::new(rows, rows, rows))
/// };
/// let summarize = |(shape, inputs): (Shape, Inputs<'_>)| engine.summarize(&shape, inputs);
/// // On one machine each, and what they send to the third one.
/// let [first, second] = [summarize(piece(0..25))?, summarize(piece(25..40))?];
/// let (mu, nu) = first.then(&second)?.state();
/// let (shape, inputs) = piece(40..60);
/// let last = engine.run(&shape, inputs.with_initial_state(&mu, &nu))?;
///
/// let (shape, inputs) = piece(0..60);
/// let whole = engine.run(&shape, inputs)?;
/// assert!(whole.o[40 * 32..].iter().zip(&last.o).all(|(x, y)| (x - y).abs() < 1e-5));
/// # Ok::<(), linear_attention::Error>(())
/// ```
///
/// Its elements are f32. A join sums in f64 and rounds once, so that R pieces cost no more than R
/// roundings of a state.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    header: Header,
    form: Form,
    sequences: u32,
    /// `[N,E,record]`.
    records: Vec<f32>,
}

impl Summary {
    /// The summary of a piece without tokens, which leaves every state as it was: joined with
    /// another summary on either side, that one.
    ///
    /// # Errors
    ///
    /// A config out of range; no value head or no sequence; 2^32 elements or more.
    pub fn empty(config: &Config, value_heads: u32, sequences: u32) -> Result<Self, Error> {
        let form = Form::of(config)?;
        for (what, count) in [("value_heads", value_heads), ("sequences", sequences)] {
            if count == 0 {
                return Err(PlanError::Zero { what }.into());
            }
        }
        let count = u64::from(value_heads) * u64::from(sequences);
        let actual = count.saturating_mul(form.record_len() as u64);
        if actual > u64::from(u32::MAX) {
            return Err(PlanError::TooManyElements { what: "summary", actual }.into());
        }
        let header = Header::of_summary(config, value_heads);
        let mut records = vec![0.0; actual as usize];
        records.chunks_mut(form.record_len()).for_each(|record| form.fill_empty(record));
        Ok(Self { header, form, sequences, records })
    }

    /// The layout of its records.
    #[must_use]
    pub fn form(&self) -> Form {
        self.form
    }

    /// N.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        self.sequences
    }

    /// E.
    #[must_use]
    pub fn value_heads(&self) -> u32 {
        self.header.value_heads()
    }

    /// A checksum of E, F, V, the feature map, the update rule and N, which a transport can
    /// compare: two summaries can join only if it is equal.
    #[must_use]
    pub fn kind(&self) -> u32 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(bytemuck::bytes_of(&self.header));
        hasher.update(&self.sequences.to_le_bytes());
        hasher.finalize()
    }

    /// A record for each value head of each sequence, `[N,E,record]`, which [`Form`] describes:
    /// what a transport sends.
    #[must_use]
    pub fn records(&self) -> &[f32] {
        &self.records
    }

    /// The same, to be replaced by what a transport received.
    #[must_use]
    pub fn records_mut(&mut self) -> &mut [f32] {
        &mut self.records
    }

    /// The state after the piece from zero: mu `[N,E,F,V]`, nu `[N,E,F]`.
    #[must_use]
    pub fn state(&self) -> (Vec<f32>, Vec<f32>) {
        let count = self.records.len() / self.form.record_len();
        let of = |len: usize| Vec::with_capacity(count * len);
        let (mut mu, mut nu) = (of(self.form.mu_len()), of(self.form.nu_len()));
        for record in self.records.chunks(self.form.record_len()) {
            let [of_mu, of_nu, _] = self.form.parts(record);
            mu.extend_from_slice(of_mu);
            nu.extend_from_slice(of_nu);
        }
        (mu, nu)
    }

    /// The summary of this piece and then the `later` one. It is associative but for rounding.
    ///
    /// # Errors
    ///
    /// [`Error::Summary`] for a summary of another config, value heads or number of sequences.
    pub fn then(&self, later: &Self) -> Result<Self, Error> {
        if let Some((what, found)) = self.difference(later) {
            let [required, actual] = found.map(|x| x.to_string());
            return Err(Error::Summary { what, required, actual });
        }
        let mut joined = later.clone();
        self.form.join(&self.records, &mut joined.records)?;
        Ok(joined)
    }

    /// The summary of this piece after a known state, mu `[N,E,F,V]` and nu `[N,E,F]`, at the
    /// beginning of all pieces: its [`state`](Summary::state) is the state after the piece,
    /// whatever is joined before it.
    ///
    /// # Errors
    ///
    /// [`Error::Len`] for slices of other lengths.
    pub fn after(&self, before: StateSlices<'_>) -> Result<Self, Error> {
        let mut known = self.with_state(before, ["initial_mu", "initial_nu"])?;
        known
            .records
            .chunks_mut(self.form.record_len())
            .for_each(|record| self.form.forget(record));
        known.then(self)
    }

    /// The same map for gradients, which go the other way: from the gradient of a loss by the state
    /// after the piece to that by the state before it,
    ///
    /// ```text
    /// dmu_before = a^T dmu_after + dmu      dnu_before = a dnu_after + dnu
    /// ```
    ///
    /// with dmu `[N,E,F,V]` and dnu `[N,E,F]` the gradients by the initial state of a backward pass
    /// over the piece, without any by its final state. Such summaries join from the last piece to
    /// the first: that of the later piece is the earlier one of [`Summary::then`].
    ///
    /// # Errors
    ///
    /// [`Error::Len`] for slices of other lengths.
    pub fn adjoint(&self, by_initial: StateSlices<'_>) -> Result<Self, Error> {
        let names = ["gradient of initial_mu", "gradient of initial_nu"];
        let mut adjoint = self.with_state(by_initial, names)?;
        let len = self.form.record_len();
        adjoint.records.chunks_mut(len).for_each(|record| self.form.transpose(record));
        Ok(adjoint)
    }

    /// Bytes that outlive the process: a header of 48 bytes as that of a
    /// [`Snapshot`](crate::serve::Snapshot), with the beginning `linasum`, a version of its own, 1, and a
    /// checksum, and then the records, little-endian.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let words: Vec<u32> = self.records.iter().map(|x| x.to_bits().to_le()).collect();
        self.header.seal(bytemuck::cast_slice(&words))
    }

    /// The summary that such bytes hold.
    ///
    /// # Errors
    ///
    /// As [`Summary::empty`]; [`Error::Summary`] for bytes that are damaged, of another version, or
    /// of another config, value heads or number of sequences.
    pub fn from_bytes(
        config: &Config,
        value_heads: u32,
        sequences: u32,
        bytes: &[u8],
    ) -> Result<Self, Error> {
        let mut summary = Self::empty(config, value_heads, sequences)?;
        let size = 4 * summary.records.len() as u64;
        let records = summary.header.open(bytes, size).map_err(|error| match error {
            PoolError::Snapshot { what, required, actual } => {
                Error::Summary { what, required, actual }
            }
            other => other.into(),
        })?;
        let words = records.as_chunks::<4>().0;
        summary.records = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        Ok(summary)
    }

    /// The summary of a call from the output that an engine computed: from zero or, for a delta
    /// rule, with the columns of [`Columns`](columns::Columns).
    pub(crate) fn of_output(
        config: &Config,
        shape: &Shape,
        inputs: Inputs<'_>,
        output: &Output,
    ) -> Result<Self, Error> {
        let mut summary = Self::empty(config, shape.value_heads, shape.sequences())?;
        let form = summary.form;
        let value_dim = config.value_dim as usize;
        let records = summary.records.chunks_mut(form.record_len());
        if form.has_matrix() {
            let features = config.features() as usize;
            let columns = value_dim + features;
            for (record, state) in records.zip(output.mu.chunks(features * columns)) {
                let [mu, _, matrix] = form.parts_mut(record);
                let rows = mu.chunks_mut(value_dim).zip(matrix.chunks_mut(features));
                for ((mu, matrix), row) in rows.zip(state.chunks(columns)) {
                    mu.copy_from_slice(&row[..value_dim]);
                    matrix.copy_from_slice(&row[value_dim..]);
                }
            }
            return Ok(summary);
        }
        let decays = decay_sums(config, shape, inputs);
        let rows = config.decay_rows() as usize;
        for (i, record) in records.enumerate() {
            let [mu, nu, sums] = form.parts_mut(record);
            mu.copy_from_slice(&output.mu[i * form.mu_len()..][..form.mu_len()]);
            nu.copy_from_slice(&output.nu[i * form.nu_len()..][..form.nu_len()]);
            let decays = &decays[i * rows..][..rows];
            sums.iter_mut().zip(decays).for_each(|(sum, decay)| *sum = *decay as f32);
        }
        Ok(summary)
    }

    /// The same factor of the state before, with another state.
    fn with_state(&self, state: StateSlices<'_>, names: [&'static str; 2]) -> Result<Self, Error> {
        let (form, count) = (self.form, self.records.len() / self.form.record_len());
        let lens = [form.mu_len(), form.nu_len()].map(|len| len * count);
        for ((tensor, slice), len) in names.into_iter().zip([state.mu, state.nu]).zip(lens) {
            let (required, actual) = (len as u64, slice.len() as u64);
            if required != actual {
                return Err(Error::Len { tensor, required, actual });
            }
        }
        let mut other = self.clone();
        for (i, record) in other.records.chunks_mut(form.record_len()).enumerate() {
            let [mu, nu, _] = form.parts_mut(record);
            mu.copy_from_slice(&state.mu[i * form.mu_len()..][..form.mu_len()]);
            nu.copy_from_slice(&state.nu[i * form.nu_len()..][..form.nu_len()]);
        }
        Ok(other)
    }

    /// The first property in which another summary differs, with both values.
    fn difference(&self, other: &Self) -> Option<(&'static str, [u32; 2])> {
        let sequences = [self.sequences, other.sequences];
        let of_sequences = (sequences[0] != sequences[1]).then_some(("sequences", sequences));
        of_sequences.or_else(|| self.header.difference(&other.header))
    }
}

/// Refuses a call that has no summary: one with an initial state, or whose sequences are only in
/// buffers.
pub(crate) fn check(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<(), Error> {
    if shape.slots.is_some() {
        return Err(Error::HostShape { what: "slots" });
    }
    if matches!(shape.packing, Packing::UpTo { .. }) {
        return Err(Error::HostShape { what: "packed_up_to" });
    }
    if inputs.initial_state.is_some() {
        let (rule, tensor) = (config.update_rule.name(), "initial_mu");
        let (required, actual) = ("absent in a summary", "some");
        return Err(Error::RuleTensor { rule, tensor, required, actual });
    }
    Ok(())
}

#[cfg(test)]
mod tests;

//! The ranks of a communicator, which agree before each exchange.

use std::cell::Cell;

use linear_attention::state::StateSlices;
use linear_attention::summary::Summary;
use mpi::collective::{CommunicatorCollectives, Root, SystemOperation};
use mpi::topology::{Color, Communicator, SimpleCommunicator};

use crate::error::Error;
use crate::scan::exclusive_scan;

/// The ranks that have a piece of the sequences each: rank 0 the first tokens, the last rank the
/// last.
///
/// All methods that exchange anything are collective: every rank calls them, in the same order.
/// Before an exchange the ranks agree that none has failed, so that the error of one is an error on
/// all of them and nobody waits for a rank that has given up. MPI itself ends the job where a
/// process dies.
pub struct Ranks {
    /// In the order of the tokens, and the other way round.
    forth: SimpleCommunicator,
    back: SimpleCommunicator,
    traffic: Cell<Traffic>,
}

/// Bytes that this rank has given to exchanges.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// Scans, forward and backward.
    pub scans: u64,
    /// Bytes of summaries given to scans: N E times a record each, however many tokens there are.
    pub scan_bytes: u64,
    /// Bytes of gradients that all ranks share, given to sums over ranks.
    pub reduced_bytes: u64,
    /// Bytes of agreements: 24 before and after each call, and the message of an error.
    pub control_bytes: u64,
}

/// The collective calls, so that ranks that make different ones notice it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Exchange {
    /// States before pieces.
    Forward = 1,
    /// Gradients by states after pieces.
    Backward,
    /// Gradients that all ranks share.
    Reduce,
    /// No exchange.
    Agree,
}

impl std::fmt::Debug for Ranks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (rank, size) = (self.rank(), self.size());
        f.debug_struct("Ranks").field("rank", &rank).field("size", &size).finish_non_exhaustive()
    }
}

impl Ranks {
    /// The ranks of a communicator; collective. The communicator itself is left alone.
    #[must_use]
    pub fn new(communicator: &impl Communicator) -> Self {
        let forth = communicator.duplicate();
        let key = forth.size() - 1 - forth.rank();
        // Every rank has a color, and so a communicator.
        let back = forth.split_by_color_with_key(Color::with_value(0), key);
        let back = back.unwrap_or_else(|| forth.duplicate());
        Self { forth, back, traffic: Cell::default() }
    }

    /// This rank, from 0.
    #[must_use]
    pub fn rank(&self) -> i32 {
        self.forth.rank()
    }

    /// All of them.
    #[must_use]
    pub fn size(&self) -> i32 {
        self.forth.size()
    }

    /// True for the rank with the last tokens.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.rank() + 1 == self.size()
    }

    /// The bytes that this rank has given to exchanges so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.traffic.get()
    }

    pub(crate) fn communicator(&self) -> &SimpleCommunicator {
        &self.forth
    }

    pub(crate) fn count(&self, count: impl FnOnce(&mut Traffic)) {
        let mut traffic = self.traffic.get();
        count(&mut traffic);
        self.traffic.set(traffic);
    }

    /// Makes the error of one rank an error on all; otherwise returns this rank's value. A program
    /// that can fail between calls lets its ranks agree there, or those without an error would wait
    /// for the others in the next call.
    ///
    /// # Errors
    ///
    /// This rank's own; or [`Error::Rank`] with that of the first rank that has one.
    pub fn agree<T>(&self, of_rank: Result<T, Error>) -> Result<T, Error> {
        self.agree_on(of_rank, (Exchange::Agree, 0))
    }

    /// The same before an exchange; `mark` must be the same on all ranks.
    pub(crate) fn agree_on<T>(
        &self,
        of_rank: Result<T, Error>,
        (exchange, mark): (Exchange, u64),
    ) -> Result<T, Error> {
        let (rank, size) = (self.rank(), self.size());
        // The largest value is that of the first rank that failed.
        let failed = if of_rank.is_err() { (size - rank) as u64 } else { 0 };
        let mark = mark.wrapping_mul(8).wrapping_add(exchange as u64);
        let mut all = [0u64; 3];
        let own = [failed, mark, !mark];
        self.forth.all_reduce_into(&own, &mut all, SystemOperation::max());
        self.count(|traffic| traffic.control_bytes += size_of_val(&own) as u64);
        if all[0] > 0 {
            let rank = size - all[0] as i32;
            let message = self.message_of(rank, of_rank.as_ref().err());
            return Err(of_rank.err().unwrap_or(Error::Rank { rank, message }));
        }
        // The largest mark is the smallest one, too.
        if all[1] != !all[2] {
            let what = "the call, and its config, value heads and number of sequences,";
            return Err(Error::Different { what });
        }
        of_rank
    }

    /// The message of the error of one rank, on all of them.
    fn message_of(&self, rank: i32, error: Option<&Error>) -> String {
        let root = self.forth.process_at_rank(rank);
        let mut bytes = error.map(Error::to_string).unwrap_or_default().into_bytes();
        let mut len = bytes.len() as u64;
        root.broadcast_into(&mut len);
        bytes.resize(len as usize, 0);
        root.broadcast_into(&mut bytes[..]);
        self.count(|traffic| traffic.control_bytes += 8 + len);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The states before this rank's piece, mu `[N,E,F,V]` and nu `[N,E,F]`, from what each rank's
    /// piece adds; collective. This is all that ranks exchange of a layer, for a program that
    /// computes its piece itself, block by block, say. The last rank's summary has no part in it:
    /// [`Summary::empty`] is as good. On rank 0 `initial` is the state before all tokens, zero for `None`.
    ///
    /// # Errors
    ///
    /// An error in place of the summary, on any rank; an initial state on another rank than 0;
    /// ranks whose summaries are of different configs, value heads or numbers of sequences.
    pub fn states_before(
        &self,
        added: Result<Summary, Error>,
        initial: Option<StateSlices<'_>>,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let checked = added.and_then(|added| {
            let (required, actual) = (0, self.rank());
            if initial.is_some() && actual != required {
                return Err(Error::Elsewhere { tensor: "initial state", required, actual });
            }
            if actual != required {
                return Ok((added, None));
            }
            // The state after a known state is known, so that its matrices need no product.
            let state = match initial {
                Some(state) => (state.mu.to_vec(), state.nu.to_vec()),
                None => {
                    let (mu, nu) = added.state();
                    (vec![0.0; mu.len()], vec![0.0; nu.len()])
                }
            };
            let known = added.after(StateSlices { mu: &state.0, nu: &state.1 })?;
            Ok((known, Some(state)))
        });
        let (before, first) = self.scan(&self.forth, checked, Exchange::Forward)?;
        Ok(first.unwrap_or_else(|| before.state()))
    }

    /// The gradients by the states after this rank's piece, from the [`Summary::adjoint`] of each
    /// rank's; collective.
    pub(crate) fn gradients_after(
        &self,
        added: Result<Summary, Error>,
    ) -> Result<(Vec<f32>, Vec<f32>), Error> {
        let added = added.map(|added| (added, None::<()>));
        Ok(self.scan(&self.back, added, Exchange::Backward)?.0.state())
    }

    /// Joins the summaries of the ranks before this one, in the order of a communicator.
    pub(crate) fn scan<T>(
        &self,
        communicator: &SimpleCommunicator,
        added: Result<(Summary, T), Error>,
        exchange: Exchange,
    ) -> Result<(Summary, T), Error> {
        let mark = added.as_ref().map_or(0, |(added, _)| added.kind().into());
        let (added, rest) = self.agree_on(added, (exchange, mark))?;
        let mut before = added.clone();
        let scanned = exclusive_scan(communicator, &added, &mut before);
        let bytes = size_of_val(added.records()) as u64;
        self.count(|traffic| {
            traffic.scans += 1;
            traffic.scan_bytes += bytes;
        });
        scanned.map(|()| (before, rest))
    }
}

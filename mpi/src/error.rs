//! Errors of calls of all ranks.

use thiserror::Error;

/// An error from a call of all ranks. It is an error on all of them, and they may make their next
/// call.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Error {
    /// This rank's own engine refused its piece, or failed.
    #[error(transparent)]
    Engine(#[from] linear_attention::Error),
    /// Another rank failed.
    #[error("rank {rank}: {message}")]
    Rank {
        /// The first that failed.
        rank: i32,
        /// Its error.
        message: String,
    },
    /// Ranks made calls that do not belong together.
    #[error("{what} must be the same on all ranks, found different ones")]
    Different {
        /// The property that differs.
        what: &'static str,
    },
    /// A tensor that one rank alone gives.
    #[error("{tensor} must be given on rank {required} alone, found on rank {actual}")]
    Elsewhere {
        /// `initial state` or `gradient of the final state`.
        tensor: &'static str,
        /// The first or the last rank.
        required: i32,
        /// This rank.
        actual: i32,
    },
    /// More than MPI can count.
    #[error("{what} must be at most {required}, found {actual}")]
    Count {
        /// `elements of a record`, `records` or `elements of shared gradients`.
        what: &'static str,
        /// The largest count.
        required: u64,
        /// The count needed.
        actual: u64,
    },
}

/// A number of elements as MPI counts them.
pub(crate) fn count(what: &'static str, elements: usize) -> Result<i32, Error> {
    let (required, actual) = (i32::MAX as u64, elements as u64);
    i32::try_from(elements).map_err(|_| Error::Count { what, required, actual })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_mpi_can_count_is_refused() {
        let (what, required, actual) = ("records", (1 << 31) - 1, 1 << 31);
        assert_eq!(count(what, required as usize), Ok(i32::MAX));
        assert_eq!(count(what, actual as usize), Err(Error::Count { what, required, actual }));
    }
}

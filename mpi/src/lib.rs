//! Linear causal attention over sequences that are spread over machines, on MPI.
//!
//! Each rank has a piece of the tokens. Linear attention's state does not grow with them, so ranks
//! exchange states, and no keys: a rank computes what its piece adds to the state
//! ([`linear_attention::summary`]), the ranks scan, and each computes its outputs from the state
//! before its piece. A rank gives `N E F (V + 1)` numbers of four bytes to a layer's exchange,
//! whatever T: see `docs/machines.md`.
//!
//! ```no_run
//! use linear_attention::cpu::CpuAttention;
//! use linear_attention::{Config, Inputs, Shape};
//! use linear_attention_mpi::{Ranks, lengths_of_piece};
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Funneled)
//!         .ok_or("MPI was initialised before")?;
//!     let ranks = Ranks::new(&universe.world());
//!     // Two sequences, 1,000 tokens in all, of which this rank has its share.
//!     let all = [700, 300];
//!     let (rank, size) = (ranks.rank() as u64, ranks.size() as u64);
//!     let lengths = lengths_of_piece(&all, 1000 * rank / size..1000 * (rank + 1) / size);
//!     let shape = Shape::packed(&lengths, 8);
//!     let [q, k, v] = [0.1, 0.2, 0.3].map(|x| vec![x; shape.seq_len as usize * 8 * 64]);
//!     let engine = CpuAttention::new(Config::new(64, 64))?;
//!     let piece = ranks.forward(&engine, &shape, Inputs::new(&q, &k, &v))?;
//!     println!("rank {rank}: {} elements of o", piece.output.o.len());
//!     Ok(())
//! }
//! ```
//!
//! An [`Engine`] computes a piece: [`CpuAttention`](linear_attention::cpu::CpuAttention), or a
//! [`DeviceEngine`] on a wgpu device; ranks may have different ones. [`Ranks::forward`] and
//! [`Ranks::backward`] are whole passes of a layer, [`Ranks::states_before`] is the exchange alone, for a
//! program that goes through a piece in blocks, as the example `long_sequence` does.
//!
//! Calls that exchange anything are collective, and the thread that makes them is the one that
//! initialised MPI: engines have threads of their own, for which `Funneled` is enough.

mod call;
mod engine;
mod error;
mod ranks;
mod scan;

pub use call::Piece;
pub use engine::{DeviceEngine, Engine};
pub use error::Error;
pub use mpi;
pub use ranks::{Ranks, Traffic};

use std::ops::Range;

/// The lengths of the packed sequences within a piece of all tokens: those of the shape of a rank
/// that has the piece. Tokens count through all sequences.
///
/// ```
/// use linear_attention_mpi::lengths_of_piece;
///
/// let all = [5, 0, 3, 4];
/// assert_eq!(lengths_of_piece(&all, 0..4), [4, 0, 0, 0]);
/// assert_eq!(lengths_of_piece(&all, 4..10), [1, 0, 3, 2]);
/// assert_eq!(lengths_of_piece(&all, 10..12), [0, 0, 0, 2]);
/// ```
#[must_use]
pub fn lengths_of_piece(lengths: &[u32], tokens: Range<u64>) -> Vec<u32> {
    let mut begin = 0;
    let part = |len: &u32| {
        let all = begin..begin + u64::from(*len);
        begin = all.end;
        let part = tokens.start.clamp(all.start, all.end)..tokens.end.clamp(all.start, all.end);
        // No longer than the sequence.
        part.end.saturating_sub(part.start) as u32
    };
    lengths.iter().map(part).collect()
}

#[cfg(doctest)]
#[doc = include_str!("../../docs/machines.md")]
struct Machines;

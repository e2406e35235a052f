//! Measures the speed of linear attention on a device, beside its roofline.
//!
//! The program's `bench` and the cargo bench `gpu` measure the same way and write the same
//! rows, so both are here:
//!
//! 1. [`Sizes`] name a shape, [`Sweep`] a row of them, [`standard_sizes`] those of the docs.
//! 2. [`Timer`] times a pass by the device's timestamps, [`Ceilings`] with it what the device
//!    can do at most.
//! 3. [`Job`] compiles a shape, and [`Job::measure`] checks its first tokens, times it and
//!    makes its [`Row`].
//! 4. [`Report`] is the file of rows that `bench --json` writes, [`Peers`] the file that
//!    `bench --against` reads; [`table`] prints rows.
//! 5. [`model`] predicts a row for a device that is not there.

mod accuracy;
mod ceilings;
#[cfg(feature = "cpu")]
mod cpu;
mod error;
mod job;
mod latency;
pub mod model;
mod peers;
mod random;
mod report;
mod sizes;
pub mod table;
mod timer;

pub use accuracy::{MATRIX_TOLERANCE, TOLERANCE, relative_error};
pub use ceilings::Ceilings;
#[cfg(feature = "cpu")]
pub use cpu::CpuJob;
pub use error::{MeasureError, ReadError};
pub use job::Job;
pub use latency::Latency;
pub use peers::{Against, Computes, PeerRow, Peers, fastest};
pub use report::{Report, Row, StageTime, driver, today};
pub use sizes::{Sizes, Sweep, parse_step, standard_sizes};
pub use timer::Timer;

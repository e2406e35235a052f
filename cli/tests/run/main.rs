//! The program as a script sees it: files, one line on stderr, exit status. What is computed
//! here is computed by the reference, so that no GPU is needed, but for what is measured.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod common;
mod conformance;
mod heads;
mod maps;
mod measured;
// A shell limits the size of files, and links are made.
#[cfg(unix)]
mod outputs;
mod padding;
mod refusals;
mod results;
mod unused;

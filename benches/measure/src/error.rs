//! Errors of measuring, and of reading files of measurements.

use std::path::PathBuf;

use linear_attention::error::{BindError, ConfigError, DeviceError, PlanError};
use linear_attention::wgpu;
use thiserror::Error;

/// The reason that a shape has no row.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MeasureError {
    /// Its pipelines cannot be made.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// It cannot be planned on this device.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Its tensors are larger than the CPU engine is measured with.
    #[error("tensors must have at most {required} bytes on the CPU engine, found {actual}")]
    Memory {
        /// The most.
        required: u64,
        /// Their bytes.
        actual: u64,
    },
    /// Its tensors cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Its states make no pool.
    #[error(transparent)]
    Pool(#[from] linear_attention::error::PoolError),
    /// The library refused a whole call, made for the check.
    #[error(transparent)]
    Attention(#[from] linear_attention::Error),
    /// The device refused, or failed while it ran.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The device stopped answering.
    #[error("the device failed: {0}")]
    Poll(wgpu::PollError),
    /// Every run took no time at all.
    #[error("the device's clock does not advance")]
    Clock,
    /// The first tokens came out wrong: a wrong result has no speed.
    #[error(
        "{sizes}: expected an error of at most {required:.0e} of the largest output, \
         found {actual:.1e}"
    )]
    Wrong {
        /// The shape.
        sizes: crate::Sizes,
        /// [`TOLERANCE`](crate::TOLERANCE) or [`MATRIX_TOLERANCE`](crate::MATRIX_TOLERANCE).
        required: f64,
        /// The error found.
        actual: f64,
    },
}

/// The reason that a file of rows is refused.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReadError {
    /// It is not there, or not readable.
    #[error("{path}: expected a readable file, found: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's message.
        source: std::io::Error,
    },
    /// It is not JSON, or lacks a field of a file of rows.
    #[error("{path}: expected rows as {writer} writes them, found: {source}", path = .path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// The program that writes such files.
        writer: &'static str,
        /// serde's message.
        source: serde_json::Error,
    },
    /// A row has a number that no measurement gives, or neither a time nor an error.
    #[error("{path}: rows[{index}]: expected {required}, found {actual}", path = .path.display())]
    Row {
        /// The file.
        path: PathBuf,
        /// The row's place, from 0.
        index: usize,
        /// The condition it fails.
        required: &'static str,
        /// The value found.
        actual: String,
    },
}

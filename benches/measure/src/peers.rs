//! Times of other libraries for the same shapes: the files that `bench --against` reads.

use std::fs;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::{ReadError, Row, Sizes};

/// Rows of one run of a script in `benches/peers`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Peers {
    /// The device or library they ran on.
    pub adapter: String,
    /// Its version.
    pub driver: String,
    /// A row for each peer and shape.
    pub rows: Vec<PeerRow>,
}

/// The time of a peer for a shape, or its error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PeerRow {
    /// Its name.
    pub peer: String,
    /// The shape.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// The update rule, and linear where a row does not say.
    #[serde(default = "crate::report::linear")]
    pub update_rule: String,
    /// E, where the row has another number of value heads than of key heads.
    #[serde(default)]
    pub e: Option<u32>,
    /// The dtype of q, k, v and o.
    pub dtype: String,
    /// The function that it computes; linear attention where a row does not say.
    #[serde(default)]
    pub computes: Computes,
    /// Milliseconds of a call, the median.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ms: Option<f64>,
    /// The error, in place of a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The kind of attention that a peer computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Computes {
    /// Linear attention, normalised or not as the peer's name says.
    #[default]
    Linear,
    /// Causal softmax attention: another function, at a cost that grows with the square of T.
    Softmax,
}

/// The fastest peer of a shape, beside a row of ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Against {
    /// The peer's name.
    pub peer: String,
    /// The dtype of its q, k, v and o.
    pub peer_dtype: String,
    /// Its milliseconds.
    pub peer_ms: f64,
    /// Its milliseconds over ours: above 1 where ours is faster.
    pub ratio: f64,
}

impl Peers {
    /// The rows in a file; every row has a time above 0 or an error.
    ///
    /// # Errors
    ///
    /// [`ReadError`], naming the file and the first row that has neither.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let peers: Self = read(path, "benches/peers/torch_cpu.py")?;
        for (index, row) in peers.rows.iter().enumerate() {
            if row.ms.is_none() && row.error.is_none() {
                let (required, actual) = ("ms or error", "neither".to_owned());
                return Err(ReadError::Row { path: path.to_owned(), index, required, actual });
            }
        }
        check_times(path, peers.rows.iter().map(|row| row.ms))?;
        Ok(peers)
    }
}

/// The fastest row of this rule, these sizes and as many value heads, of any dtype and any
/// function: its name says which.
#[must_use]
pub fn fastest(peers: &[Peers], ours: &Row) -> Option<Against> {
    let is_alike = |row: &&PeerRow| {
        row.sizes == ours.sizes
            && row.update_rule == ours.update_rule
            && row.e.unwrap_or(row.sizes.g) == ours.e
    };
    let rows = peers.iter().flat_map(|peers| &peers.rows).filter(is_alike);
    let timed = rows.filter_map(|row| Some((row, row.ms?)));
    let (row, peer_ms) = timed.min_by(|(_, a), (_, b)| a.total_cmp(b))?;
    Some(Against {
        peer: row.peer.clone(),
        peer_dtype: row.dtype.clone(),
        peer_ms,
        ratio: peer_ms / ours.ms,
    })
}

/// A file of rows that `writer` writes.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, writer: &'static str) -> Result<T, ReadError> {
    let path = path.to_owned();
    match fs::read(&path) {
        Err(source) => Err(ReadError::Io { path, source }),
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|source| ReadError::Json {
            path,
            writer,
            source,
        }),
    }
}

/// Refuses a file without rows, and the first time that is not above 0.
pub(crate) fn check_times(
    path: &Path,
    times: impl Iterator<Item = Option<f64>>,
) -> Result<(), ReadError> {
    let mut count = 0;
    for (index, ms) in times.enumerate() {
        count += 1;
        if let Some(ms) = ms
            && !(ms.is_finite() && ms > 0.0)
        {
            let (path, actual) = (path.to_owned(), ms.to_string());
            return Err(ReadError::Row { path, index, required: "ms above 0", actual });
        }
    }
    if count == 0 {
        let (path, actual) = (path.to_owned(), "no row".to_owned());
        return Err(ReadError::Row { path, index: 0, required: "at least one row", actual });
    }
    Ok(())
}

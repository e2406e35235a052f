//! The file of rows that `bench --json` writes.

use std::path::Path;

use linear_attention::tuning::Tuning;
use linear_attention::wgpu::AdapterInfo;
use linear_attention::{Config, Plan, Shape};
use serde::{Deserialize, Serialize};

use crate::{Against, Ceilings, Latency, ReadError, Sizes, peers};

/// Rows measured in one run on one device, as `linear-attention bench --json FILE` writes
/// them and `linear-attention plot FILE` reads them.
///
/// Keys of the file; they are stable, and others may join them:
///
/// | key | contents |
/// | --- | --- |
/// | `adapter`, `driver`, `backend` | the device, by the names wgpu gives |
/// | `date` | the day of the run in UTC, `2026-11-24` |
/// | `version` | of the crate |
/// | `timer`, `iterations` | the source of the times; runs of which the median counts |
/// | `copy_gb_s`, `fma_gflop_s` | the ceilings of the same run: bytes read and written by a copy, operations of f32 multiply-adds |
/// | `rows` | a [`Row`] a shape |
///
/// Keys of a row:
///
/// | key | contents |
/// | --- | --- |
/// | `update_rule` | the rule's name |
/// | `b`, `t`, `h`, `g`, `e`, `k`, `v` | the sizes, and of a decode step `n`, its sequences;
/// `dtype` is the type of q, k, v and o, as safetensors spells it; `feature_map` is φ, as the
/// command line spells it |
/// | `ms` | all dispatches of a call, warm |
/// | `gb_s`, `copy_share` | bytes that the plan moves in that time, the state of a decode step included; over `copy_gb_s` |
/// | `gflop_s`, `fma_share` | operations of the plan in that time; over `fma_gflop_s` |
/// | `tokens_s` | B T over the time |
/// | `tuning` | the sizes it ran with, a [`Tuning`]; chosen by measuring with `--tune` |
/// | `segments` | S, the segments of a sequence |
/// | `scratch_bytes` | scratch that the plan needs |
/// | `state_bytes` | the states of a step of decoding, where T = 1; else 0 |
/// | `total_bytes` | all that was asked of the device for the row: q, k, v, o, scratch, state |
/// | `pipeline_ms`, `first_dispatch_ms`, `record_us`, `finish_us` | see [`Latency`] |
/// | `stages` | `stage` and `ms` of each stage timed alone, where there are several |
/// | `peer`, `peer_dtype`, `peer_ms`, `ratio` | the fastest peer of equal sizes, where `--against` names one; `ratio` is `peer_ms` over `ms` |
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// The adapter's name.
    pub adapter: String,
    /// Its driver and the driver's version.
    pub driver: String,
    /// wgpu's backend.
    pub backend: String,
    /// The day, in UTC.
    pub date: String,
    /// The crate's version.
    pub version: String,
    /// The source of the times.
    pub timer: String,
    /// Runs of which the median counts.
    pub iterations: usize,
    /// Bytes a second of a copy, over 10^9.
    pub copy_gb_s: f64,
    /// Operations a second of multiply-adds, over 10^9.
    pub fma_gflop_s: f64,
    /// A row a shape.
    pub rows: Vec<Row>,
}

impl Report {
    /// An empty report of today's, for this adapter.
    #[must_use]
    pub fn new(info: &AdapterInfo, timer: &str, iterations: usize, ceilings: &Ceilings) -> Self {
        let names = [info.name.clone(), driver(info), info.backend.to_string()];
        Self::of(names, timer, iterations, ceilings)
    }

    /// The same for what has this name, driver and backend.
    #[must_use]
    pub fn of(
        [adapter, driver, backend]: [String; 3],
        timer: &str,
        iterations: usize,
        ceilings: &Ceilings,
    ) -> Self {
        Self {
            adapter,
            driver,
            backend,
            date: today(),
            // All crates of the workspace have one version.
            version: env!("CARGO_PKG_VERSION").to_owned(),
            timer: timer.to_owned(),
            iterations,
            copy_gb_s: 1e-9 * ceilings.bytes,
            fma_gflop_s: 1e-9 * ceilings.flops,
            rows: Vec::new(),
        }
    }

    /// The report in a file, with at least one row, all of whose times are above 0.
    ///
    /// # Errors
    ///
    /// [`ReadError`], naming the file and the first row that is not.
    pub fn read(path: &Path) -> Result<Self, ReadError> {
        let report: Self = peers::read(path, "`linear-attention bench --json`")?;
        peers::check_times(path, report.rows.iter().map(|row| Some(row.ms)))?;
        Ok(report)
    }
}

/// The day in UTC, `2026-11-24`.
#[must_use]
pub fn today() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d").to_string()
}

/// A measured shape; [`Report`] says what each key holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// The measured sizes.
    #[serde(flatten)]
    pub sizes: Sizes,
    /// The update rule's name; not in files of earlier versions.
    #[serde(default = "linear")]
    pub update_rule: String,
    /// E, value heads; not in files of earlier versions.
    #[serde(default)]
    pub e: u32,
    /// N, the sequences of a step of decoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub n: Option<u32>,
    /// The dtype of q, k, v and o.
    pub dtype: String,
    /// The feature map, as the command line spells it.
    #[serde(default)]
    pub feature_map: String,
    /// Milliseconds of a call.
    pub ms: f64,
    /// Bytes moved a second, over 10^9.
    pub gb_s: f64,
    /// The same over what a copy moves.
    pub copy_share: f64,
    /// Operations a second, over 10^9.
    pub gflop_s: f64,
    /// The same over what multiply-adds do.
    pub fma_share: f64,
    /// Tokens a second.
    pub tokens_s: f64,
    /// The sizes it ran with; not in files of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tuning: Option<Tuning>,
    /// Segments of a sequence.
    pub segments: u32,
    /// Bytes of scratch.
    pub scratch_bytes: u64,
    /// Bytes of the states of a step of decoding.
    pub state_bytes: u64,
    /// Bytes asked of the device.
    pub total_bytes: u64,
    /// First use, and what recording costs.
    #[serde(flatten)]
    pub latency: Latency,
    /// Each stage alone, where there are several.
    #[serde(default)]
    pub stages: Vec<StageTime>,
    /// The fastest peer of equal sizes.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub against: Option<Against>,
}

pub(crate) fn linear() -> String {
    "linear".to_owned()
}

/// A stage timed alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StageTime {
    /// The stage's name.
    pub stage: String,
    /// Milliseconds of its dispatches.
    pub ms: f64,
}

/// The bytes and operations of a row.
pub(crate) struct Work {
    /// Bytes moved, but for the states of a step.
    pub(crate) bytes: u64,
    pub(crate) flops: u64,
    pub(crate) segments: u32,
    pub(crate) scratch_bytes: u64,
    pub(crate) tuning: Option<Tuning>,
}

/// The measurements of a row, beside its plan.
pub(crate) struct Measured {
    pub(crate) seconds: f64,
    pub(crate) stages: Vec<StageTime>,
    pub(crate) total_bytes: u64,
    pub(crate) state_bytes: u64,
    pub(crate) latency: Latency,
}

impl Row {
    pub(crate) fn new(plan: &Plan, ceilings: &Ceilings, measured: Measured) -> Self {
        let work = Work {
            bytes: plan.bytes_moved(),
            flops: plan.flops(),
            segments: plan.segments(),
            scratch_bytes: plan.scratch_size(),
            tuning: Some(*plan.tuning()),
        };
        Self::of_work(plan.config(), plan.shape(), ceilings, work, measured)
    }

    pub(crate) fn of_work(
        config: &Config,
        shape: &Shape,
        ceilings: &Ceilings,
        work: Work,
        measured: Measured,
    ) -> Self {
        let Measured { seconds, stages, total_bytes, state_bytes, latency } = measured;
        let sizes = Sizes::of(shape, config);
        // A bound state is read once and written once; the plan does not count it.
        let state_moved = 2 * state_bytes;
        let bytes = (work.bytes + state_moved) as f64 / seconds;
        let flops = work.flops as f64 / seconds;
        Self {
            sizes,
            update_rule: config.update_rule.name().to_owned(),
            e: shape.value_heads,
            n: sizes.is_step().then_some(sizes.b),
            dtype: config.dtype.name().to_owned(),
            feature_map: config.feature_map.to_string(),
            ms: 1e3 * seconds,
            gb_s: 1e-9 * bytes,
            copy_share: bytes / ceilings.bytes,
            gflop_s: 1e-9 * flops,
            fma_share: flops / ceilings.flops,
            tokens_s: f64::from(sizes.b) * f64::from(sizes.t) / seconds,
            tuning: work.tuning,
            segments: work.segments,
            scratch_bytes: work.scratch_bytes,
            state_bytes,
            total_bytes,
            latency,
            stages,
            against: None,
        }
    }
}

/// The driver's name and version.
#[must_use]
pub fn driver(info: &AdapterInfo) -> String {
    format!("{} {}", info.driver, info.driver_info).trim().to_owned()
}

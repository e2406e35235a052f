//! Who holds mu in registers, and in tiles of which size.

use crate::error::ConfigError;
use crate::kernel::stage::is_mapped;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;

/// Threads of `state_scan`, which has one a state element.
pub(crate) const SCAN_THREADS: u32 = 64;

/// Who holds mu while a segment is walked, token by token. Each layout is a folder of
/// shaders (`shaders/workgroup`, `shaders/thread`), because an override cannot size
/// registers; within a layout everything else is an override.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Layout {
    /// The threads of a workgroup, each 16 features by 4 values of it: 64 accumulators,
    /// what a GPU's register file holds well. Tokens come through workgroup memory.
    Workgroup {
        /// Threads along V; a workgroup has 4 times as many values.
        column_threads: u32,
        /// Most tokens in workgroup memory at a time.
        chunk_tokens: u32,
        /// Most query rows (tokens times query heads) in workgroup memory at a time.
        chunk_queries: u32,
    },
    /// One thread, all features by `4 * value_quads` values of it, without workgroup memory:
    /// for software devices, where a memory access costs what a hundred multiply-adds do.
    Thread {
        /// Quads of values of a thread: 1, 2, 4 or 8.
        value_quads: u32,
        /// Threads of a workgroup, each with another part of the problem.
        threads: u32,
    },
}

impl Layout {
    /// The table of [`Layout::Thread`]: the widest tile whose registers a compiler still
    /// takes in seconds, and no wider than V.
    pub(crate) fn thread(config: &Config) -> Self {
        let widest = match config.key_dim {
            0..=128 => 8,
            _ => 4,
        };
        let quads = config.value_dim.div_ceil(4);
        // Slices as few as the widest tile allows, then tiles as narrow as those allow.
        let slices = quads.div_ceil(widest);
        let value_quads = quads.div_ceil(slices).next_power_of_two().min(widest);
        Self::Thread { value_quads, threads: 8 }
    }

    /// The table of [`Layout::Workgroup`], best first: wide workgroups, so that few of them
    /// read the same q and k again; then long chunks, so that barriers are few.
    pub(crate) fn workgroups(config: &Config) -> Vec<Self> {
        let widest = config.value_dim.div_ceil(4).next_power_of_two();
        let mut layouts = Vec::new();
        for all_rows in [&[16, 8, 4][..], &[16, 8, 4, 2, 1]] {
            let mut column_threads = widest;
            while column_threads > 0 {
                layouts.extend(all_rows.iter().map(|rows| Self::Workgroup {
                    column_threads,
                    chunk_tokens: *rows,
                    chunk_queries: *rows,
                }));
                column_threads /= 2;
            }
        }
        layouts
    }

    /// Values that one place of the grid has: a workgroup, or in [`Layout::Thread`] a thread.
    #[must_use]
    pub fn values(self) -> u32 {
        match self {
            Self::Workgroup { column_threads, .. } => column_threads.saturating_mul(4),
            Self::Thread { value_quads, .. } => value_quads.saturating_mul(4),
        }
    }

    /// Features whose products are added up before those of others join.
    pub(crate) fn features(self) -> u32 {
        match self {
            Self::Workgroup { .. } => 16,
            Self::Thread { .. } => 64,
        }
    }

    /// Places that a workgroup has.
    pub(crate) fn places(self) -> u32 {
        match self {
            Self::Workgroup { .. } => 1,
            Self::Thread { threads, .. } => threads,
        }
    }

    /// Threads of a workgroup.
    pub(crate) fn threads(self, config: &Config) -> u64 {
        match self {
            Self::Workgroup { column_threads, .. } => {
                u64::from(feature_threads(config)) * u64::from(column_threads)
            }
            Self::Thread { threads, .. } => threads.into(),
        }
    }

    /// Bytes of workgroup memory that `segment_output` takes, which takes the most.
    #[must_use]
    pub fn workgroup_memory(self, config: &Config) -> u64 {
        let Self::Workgroup { chunk_tokens, chunk_queries, .. } = self else {
            return 0;
        };
        let threads = u64::from(feature_threads(config));
        let features = threads * 16;
        let columns = u64::from(self.values());
        let tokens = u64::from(chunk_tokens);
        let queries = u64::from(chunk_queries);
        let floats = ((tokens + queries) * features)
            .saturating_add(tokens.saturating_mul(columns))
            .saturating_add(features)
            .saturating_add(queries.saturating_mul(threads * columns))
            .saturating_add(queries * (features / 4 + 1));
        // Rows as they are, the projections kept of them, and what all features of one share.
        let mapped = match is_mapped(config) {
            false => 0,
            true => {
                let kept = |map: &FeatureMap| map.kept_projections(config.key_dim);
                let kept = kept(config.key_map()).max(kept(config.query_map()));
                let quads = config.key_dim.div_ceil(4) + kept + 1;
                4 * ((tokens + queries) * u64::from(quads) + 1)
            }
        };
        let floats = floats.saturating_add(mapped);
        // Arrays of vec4 begin at multiples of 16 bytes; four arrays follow one another, and the
        // place or sequence that all threads share.
        floats.saturating_mul(4).saturating_add(64 + 64)
    }

    /// Every size of the layout, by the name of its field.
    fn sizes(self) -> Vec<(&'static str, u32)> {
        match self {
            Self::Workgroup { column_threads, chunk_tokens, chunk_queries } => vec![
                ("column_threads", column_threads),
                ("chunk_tokens", chunk_tokens),
                ("chunk_queries", chunk_queries),
            ],
            Self::Thread { value_quads, threads } => {
                vec![("value_quads", value_quads), ("threads", threads)]
            }
        }
    }

    /// Whether every size is in range and the device has room for it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tuning`] or [`ConfigError::Limit`], naming the first that is not met.
    pub fn check(self, config: &Config, limits: &wgpu::Limits) -> Result<(), ConfigError> {
        let refuse = |what, required: &str, actual: u32| {
            let required = required.to_owned();
            Err(ConfigError::Tuning { what, required, actual: actual.into() })
        };
        for (what, actual) in self.sizes() {
            // 2^16 of anything in a workgroup is beyond every device; it also keeps the
            // arithmetic of workgroup_memory far from overflow.
            if !(1..=1 << 16).contains(&actual) {
                return refuse(what, "1 to 65536", actual);
            }
        }
        if let Self::Thread { value_quads, .. } = self {
            if ![1, 2, 4, 8].contains(&value_quads) {
                return refuse("value_quads", "1, 2, 4 or 8", value_quads);
            }
            if !config.is_element_wise() {
                let required = "workgroup for a feature map that needs more of a row than a number";
                return refuse("layout", required, 0);
            }
        }
        let threads = self.threads(config).max(SCAN_THREADS.into());
        let threads = threads.max(decode_threads(config, self).into());
        for (what, required, actual) in [
            (
                "max_compute_invocations_per_workgroup",
                threads,
                limits.max_compute_invocations_per_workgroup,
            ),
            ("max_compute_workgroup_size_x", threads, limits.max_compute_workgroup_size_x),
            (
                "max_compute_workgroup_storage_size",
                self.workgroup_memory(config),
                limits.max_compute_workgroup_storage_size,
            ),
            (
                "max_storage_buffers_per_shader_stage",
                8,
                limits.max_storage_buffers_per_shader_stage,
            ),
        ] {
            if u64::from(actual) < required {
                return Err(ConfigError::Limit { what, required, actual: actual.into() });
            }
        }
        Ok(())
    }
}

/// Features up to which the threads of one workgroup hold all.
const WHOLE_FEATURES: u32 = 256;
/// Features of a block where they do not. Fewer would make more shares of o, more would leave less
/// workgroup memory for rows.
const BLOCK_FEATURES: u32 = 128;

/// Threads along a block of F of [`Layout::Workgroup`], each with 16 features.
pub(crate) fn feature_threads(config: &Config) -> u32 {
    match config.features() {
        features @ ..=WHOLE_FEATURES => features.div_ceil(16),
        _ => BLOCK_FEATURES / 16,
    }
}

/// Blocks that F falls into.
pub(crate) fn feature_blocks(config: &Config) -> u32 {
    config.features().div_ceil(16 * feature_threads(config).max(1)).max(1)
}

/// Key/value heads of a workgroup of `decode_step`. In [`Layout::Thread`] each takes a thread
/// for every `SLICE_QUADS` quads of values, and a software device runs threads in eights.
pub(crate) fn decode_places(config: &Config, layout: Layout) -> u32 {
    let Layout::Thread { .. } = layout else { return 1 };
    match decode_slices(config) {
        slices if slices.is_multiple_of(8) || slices > 32 => 1,
        slices if slices.is_multiple_of(4) || slices > 16 => 2,
        slices if slices.is_multiple_of(2) || slices > 8 => 4,
        _ => 8,
    }
}

/// Threads of a workgroup of `decode_step`, where it has its own number.
fn decode_threads(config: &Config, layout: Layout) -> u32 {
    match layout {
        Layout::Workgroup { .. } => 0,
        Layout::Thread { .. } => decode_slices(config) * decode_places(config, layout),
    }
}

fn decode_slices(config: &Config) -> u32 {
    config.value_dim.div_ceil(if config.is_quads() { 16 } else { 4 })
}

//! How a problem is cut to fit a device: who holds mu, chunk sizes, segments.

use crate::{Config, ConfigError};

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
        // Arrays of vec4 begin at multiples of 16 bytes; four arrays follow one another.
        floats.saturating_mul(4).saturating_add(64)
    }

    /// Every size of the layout, by the name of its field, with the largest it may have.
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
}

/// Threads along F of [`Layout::Workgroup`]: K over the 16 features of each, rounded up.
pub(crate) fn feature_threads(config: &Config) -> u32 {
    config.key_dim.div_ceil(16)
}

/// Sizes that decide how fast a result comes, never what it is beyond rounding.
///
/// [`Tuning::new`] chooses by device type and limits, [`tune`](crate::tune) by measuring.
/// With the feature `serde` a tuning can be stored and read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Tuning {
    /// Who holds mu.
    pub layout: Layout,
    /// Workgroups that the device runs at a time: a sequence is cut into segments where
    /// that makes the last workgroup end sooner.
    pub workgroups: u32,
    /// Tokens below which a segment is not worth its state.
    pub min_segment_len: u32,
    /// Tokens above which a segment is cut however full the device is, so that the
    /// rounding error of the running sum stops growing with T.
    pub max_segment_len: u32,
    /// Loop iterations that an invocation may make. llvmpipe leaves every loop, silently,
    /// when an invocation has made 65,535 iterations in all of its loops together; GPUs
    /// have no such limit.
    pub max_loop_iterations: u32,
}

impl Tuning {
    /// What does well on a device of this type with these limits.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Limit`] where the device has too few invocations or too little
    /// workgroup memory for any choice. wgpu's default limits are always enough.
    pub fn new(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let software = device_type == wgpu::DeviceType::Cpu;
        let layouts = if software { Self::thread_layouts(config) } else { vec![] };
        let layouts = layouts.into_iter().chain(Self::workgroup_layouts(config));
        let workgroups = match device_type {
            wgpu::DeviceType::Cpu => {
                std::thread::available_parallelism().map_or(4, |n| n.get() as u32)
            }
            wgpu::DeviceType::IntegratedGpu => 128,
            _ => 512,
        };
        let mut refused = None;
        for layout in layouts {
            let tuning = Self {
                layout,
                workgroups,
                min_segment_len: 128,
                max_segment_len: 16_384,
                max_loop_iterations: if software { 65_000 } else { u32::MAX },
            };
            match tuning.check(config, limits) {
                Ok(()) => return Ok(tuning),
                Err(error) => refused = Some(error),
            }
        }
        // The list is never empty, and its last entry asks for the least.
        Err(refused.unwrap_or(ConfigError::Tuning {
            what: "layout",
            required: "one that fits".to_owned(),
            actual: 0,
        }))
    }

    /// The table of [`Layout::Thread`], best first: the widest tile whose registers a
    /// compiler still takes in seconds, and no wider than V.
    fn thread_layouts(config: &Config) -> Vec<Layout> {
        let widest = match config.key_dim {
            0..=128 => 8,
            _ => 4,
        };
        let quads = config.value_dim.div_ceil(4);
        // Slices as few as the widest tile allows, then tiles as narrow as those allow.
        let slices = quads.div_ceil(widest);
        let value_quads = quads.div_ceil(slices).next_power_of_two().min(widest);
        vec![Layout::Thread { value_quads, threads: 8 }]
    }

    /// The table of [`Layout::Workgroup`], best first: wide workgroups, so that few of them
    /// read the same q and k again; then long chunks, so that barriers are few.
    fn workgroup_layouts(config: &Config) -> Vec<Layout> {
        let widest = config.value_dim.div_ceil(4).next_power_of_two();
        let mut layouts = Vec::new();
        for all_rows in [&[16, 8, 4][..], &[16, 8, 4, 2, 1]] {
            let mut column_threads = widest;
            while column_threads > 0 {
                layouts.extend(all_rows.iter().map(|rows| Layout::Workgroup {
                    column_threads,
                    chunk_tokens: *rows,
                    chunk_queries: *rows,
                }));
                column_threads /= 2;
            }
        }
        layouts
    }

    /// The few choices worth measuring on a device: [`Tuning::new`] first, then other layouts,
    /// narrower places, shorter chunks and more segments, each within the limits.
    ///
    /// # Errors
    ///
    /// As [`Tuning::new`].
    pub fn candidates(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
    ) -> Result<Vec<Self>, ConfigError> {
        let first = Self::new(config, limits, device_type)?;
        let mut layouts = vec![first.layout];
        let software = device_type == wgpu::DeviceType::Cpu;
        // A GPU has registers for 128 accumulators, a software device's stack for thousands.
        let (accumulators, threads) = if software { (4096, 8) } else { (128, 64) };
        let quads = config.value_dim.div_ceil(4).next_power_of_two();
        layouts.extend(
            [8, 4, 2, 1]
                .into_iter()
                .filter(|value_quads| *value_quads <= quads)
                .map(|value_quads| Layout::Thread { value_quads, threads })
                .filter(|layout| layout.values() * config.key_dim <= accumulators),
        );
        // A software device is slow with it, and compiles slowly: one is enough there.
        let narrower: &[u32] = if software { &[1] } else { &[1, 2, 4] };
        let all_rows: &[u32] = if software { &[16] } else { &[16, 8, 4] };
        for narrower in narrower {
            let column_threads = u32::max(quads / narrower, 1);
            layouts.extend(all_rows.iter().map(|rows| Layout::Workgroup {
                column_threads,
                chunk_tokens: *rows,
                chunk_queries: *rows,
            }));
        }
        let mut found: Vec<Self> = Vec::new();
        for layout in layouts {
            for workgroups in [first.workgroups, first.workgroups * 4] {
                let tuning = Self { layout, workgroups, ..first };
                if tuning.check(config, limits).is_ok() && !found.contains(&tuning) {
                    found.push(tuning);
                }
            }
        }
        Ok(found)
    }

    /// Whether pipelines compiled for the one serve the other: only the plan reads the
    /// segments' sizes.
    #[must_use]
    pub fn compiles_like(&self, other: &Self) -> bool {
        self.layout == other.layout
    }

    /// Whether every size is at least 1 and the device has room for it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tuning`] or [`ConfigError::Limit`], naming the first that is not met.
    pub fn check(&self, config: &Config, limits: &wgpu::Limits) -> Result<(), ConfigError> {
        config.validate()?;
        let refuse = |what, required: &str, actual: u32| {
            let required = required.to_owned();
            Err(ConfigError::Tuning { what, required, actual: actual.into() })
        };
        for (what, actual) in [
            ("workgroups", self.workgroups),
            ("min_segment_len", self.min_segment_len),
            ("max_segment_len", self.max_segment_len),
            ("max_loop_iterations", self.max_loop_iterations),
        ] {
            if actual == 0 {
                return refuse(what, "at least 1", actual);
            }
        }
        for (what, actual) in self.layout.sizes() {
            // 2^16 of anything in a workgroup is beyond every device; it also keeps the
            // arithmetic of workgroup_memory far from overflow.
            if !(1..=1 << 16).contains(&actual) {
                return refuse(what, "1 to 65536", actual);
            }
        }
        if let Layout::Thread { value_quads, .. } = self.layout
            && ![1, 2, 4, 8].contains(&value_quads)
        {
            return refuse("value_quads", "1, 2, 4 or 8", value_quads);
        }
        let threads = self.layout.threads(config).max(crate::stage::SCAN_THREADS.into());
        for (what, required, actual) in [
            (
                "max_compute_invocations_per_workgroup",
                threads,
                limits.max_compute_invocations_per_workgroup,
            ),
            ("max_compute_workgroup_size_x", threads, limits.max_compute_workgroup_size_x),
            (
                "max_compute_workgroup_storage_size",
                self.layout.workgroup_memory(config),
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

//! How a problem is cut to fit a device: tile, workgroup and chunk sizes, segments.

use crate::{Config, ConfigError};

/// The part of mu that one thread holds in registers; each is a shader of its own
/// (`shaders/tile_*.wgsl`), because an override cannot size registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Tile {
    /// 16 features by 4 values, 64 accumulators: what a GPU's register file holds well.
    F16V4,
    /// 32 features by 16 values, 512 accumulators: for software devices, where a load
    /// from workgroup memory costs as much as a dozen multiply-adds.
    F32V16,
}

impl Tile {
    /// Every tile.
    pub const ALL: [Tile; 2] = [Self::F16V4, Self::F32V16];

    /// Features of a tile.
    #[must_use]
    pub fn features(self) -> u32 {
        match self {
            Self::F16V4 => 16,
            Self::F32V16 => 32,
        }
    }

    /// Values of a tile.
    #[must_use]
    pub fn values(self) -> u32 {
        match self {
            Self::F16V4 => 4,
            Self::F32V16 => 16,
        }
    }
}

/// Sizes that decide how fast a result comes, never what it is beyond rounding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Tuning {
    /// What a thread holds.
    pub tile: Tile,
    /// Threads along V; a workgroup has `column_threads * tile.values()` columns.
    pub column_threads: u32,
    /// Most tokens in workgroup memory at a time.
    pub chunk_tokens: u32,
    /// Most query rows (tokens times query heads) in workgroup memory at a time.
    pub chunk_queries: u32,
    /// Workgroups that fill the device: a sequence is cut into segments until there are
    /// as many, as long as a segment keeps `min_segment_len` tokens.
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
        let tile = if software && config.key_dim > 16 && config.value_dim > 4 {
            Tile::F32V16
        } else {
            Tile::F16V4
        };
        let workgroups = match device_type {
            wgpu::DeviceType::Cpu => {
                std::thread::available_parallelism().map_or(4, |n| n.get() as u32)
            }
            wgpu::DeviceType::IntegratedGpu => 128,
            _ => 512,
        };
        let mut tuning = Self {
            tile,
            column_threads: 1,
            chunk_tokens: 1,
            chunk_queries: 1,
            workgroups,
            min_segment_len: 128,
            max_segment_len: 16_384,
            max_loop_iterations: if software { 65_000 } else { u32::MAX },
        };
        // Wide workgroups first, so that few of them read the same q and k again; then long
        // chunks, so that barriers are few.
        let widest = config.value_dim.div_ceil(tile.values()).next_power_of_two();
        for least_rows in [4, 1] {
            let mut column_threads = widest;
            while column_threads > 0 {
                for rows in [16, 8, 4, 2, 1] {
                    tuning.column_threads = column_threads;
                    tuning.chunk_tokens = rows;
                    tuning.chunk_queries = rows;
                    if rows >= least_rows && tuning.check(config, limits).is_ok() {
                        return Ok(tuning);
                    }
                }
                column_threads /= 2;
            }
        }
        tuning.check(config, limits).map(|()| tuning)
    }

    /// The choices worth measuring on a device: [`Tuning::new`] first, then both tiles with
    /// narrower workgroups, shorter chunks and other segment counts, each within the limits.
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
        let mut found = vec![first];
        for tile in Tile::ALL {
            let widest = config.value_dim.div_ceil(tile.values()).next_power_of_two();
            for column_threads in [widest, widest.div_ceil(2), widest.div_ceil(4)] {
                for rows in [4, 8, 16] {
                    for workgroups in [first.workgroups, first.workgroups * 4] {
                        let tuning = Self {
                            tile,
                            column_threads,
                            chunk_tokens: rows,
                            chunk_queries: rows,
                            workgroups,
                            ..first
                        };
                        if tuning.check(config, limits).is_ok() && !found.contains(&tuning) {
                            found.push(tuning);
                        }
                    }
                }
            }
        }
        Ok(found)
    }

    /// Whether pipelines compiled for the one serve the other: only the plan reads the
    /// segments' sizes.
    #[must_use]
    pub fn compiles_like(&self, other: &Self) -> bool {
        let compiled = |t: &Self| (t.tile, t.column_threads, t.chunk_tokens, t.chunk_queries);
        compiled(self) == compiled(other)
    }

    /// Threads along F: K over the tile's features, rounded up.
    #[must_use]
    pub fn feature_threads(&self, config: &Config) -> u32 {
        config.key_dim.div_ceil(self.tile.features())
    }

    /// Values of a workgroup.
    #[must_use]
    pub fn columns(&self) -> u32 {
        self.column_threads.saturating_mul(self.tile.values())
    }

    /// Bytes of workgroup memory that `segment_output` takes, which takes the most.
    #[must_use]
    pub fn workgroup_memory(&self, config: &Config) -> u64 {
        let features = u64::from(self.feature_threads(config)) * u64::from(self.tile.features());
        let columns = u64::from(self.columns());
        let tokens = u64::from(self.chunk_tokens);
        let queries = u64::from(self.chunk_queries);
        let shares = queries.saturating_mul(u64::from(self.feature_threads(config)) * columns);
        let floats = ((tokens + queries) * features)
            .saturating_add(tokens.saturating_mul(columns))
            .saturating_add(features)
            .saturating_add(shares)
            .saturating_add(queries * (features / 4 + 1));
        // Arrays of vec4 begin at multiples of 16 bytes; four arrays follow one another.
        floats.saturating_mul(4).saturating_add(64)
    }

    /// Whether every size is at least 1 and the device has room for it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tuning`] or [`ConfigError::Limit`], naming the first that is not met.
    pub fn check(&self, config: &Config, limits: &wgpu::Limits) -> Result<(), ConfigError> {
        config.validate()?;
        for (what, actual) in [
            ("column_threads", self.column_threads),
            ("chunk_tokens", self.chunk_tokens),
            ("chunk_queries", self.chunk_queries),
            ("workgroups", self.workgroups),
            ("min_segment_len", self.min_segment_len),
            ("max_segment_len", self.max_segment_len),
            ("max_loop_iterations", self.max_loop_iterations),
        ] {
            // 2^16 of anything in a workgroup is beyond every device; it also keeps the
            // arithmetic of workgroup_memory far from overflow.
            let in_workgroup = what.starts_with("chunk") || what == "column_threads";
            if actual == 0 || (in_workgroup && actual > 1 << 16) {
                let required = if in_workgroup { "1 to 65536" } else { "at least 1" };
                let required = required.to_owned();
                return Err(ConfigError::Tuning { what, required, actual: actual.into() });
            }
        }
        let threads = u64::from(self.feature_threads(config)) * u64::from(self.column_threads);
        for (what, required, actual) in [
            (
                "max_compute_invocations_per_workgroup",
                threads.max(u64::from(crate::stage::SCAN_THREADS)),
                u64::from(limits.max_compute_invocations_per_workgroup),
            ),
            (
                "max_compute_workgroup_size_x",
                threads.max(u64::from(crate::stage::SCAN_THREADS)),
                u64::from(limits.max_compute_workgroup_size_x),
            ),
            (
                "max_compute_workgroup_storage_size",
                self.workgroup_memory(config),
                u64::from(limits.max_compute_workgroup_storage_size),
            ),
            (
                "max_storage_buffers_per_shader_stage",
                8,
                u64::from(limits.max_storage_buffers_per_shader_stage),
            ),
        ] {
            if actual < required {
                return Err(ConfigError::Limit { what, required, actual });
            }
        }
        Ok(())
    }
}

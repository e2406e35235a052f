//! Layouts: the tile of mu that a thread holds in registers, and the source of rows.

mod candidates;
mod decode;
mod matrices;
mod memory;
mod subgroups;

use crate::error::ConfigError;
use crate::problem::config::Config;

pub(crate) use decode::DecodeLayout;
pub(crate) use memory::check_limits;

/// Threads of a workgroup of the stages that go through states and outputs element by element.
pub(crate) const SCAN_THREADS: u32 = 64;

/// Entries of a thread of the stages that check those which a device wrote.
pub(crate) const THREAD_ENTRIES: u32 = 4;

/// Entries of a workgroup of those stages.
pub(crate) const BLOCK_ENTRIES: u32 = THREAD_ENTRIES * SCAN_THREADS;

/// Threads of a workgroup with [`RowSource::Direct`], each of which is a work item.
pub(crate) const DIRECT_THREADS: u32 = 8;
/// Features up to which the threads of one work item hold all.
const WHOLE_FEATURES: u32 = 256;
/// Features of a block where they do not (split-F). Fewer make more partial sums of o, more leave
/// less workgroup memory for rows.
const BLOCK_FEATURES: u32 = 128;

/// The tile of mu that a thread holds in registers, and the threads that share it. Every layout has
/// the same kernels; these are their numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Layout {
    /// Features of a thread's tile, a multiple of 4. `ceil(F / rows)` threads, the lanes, share a row
    /// of phi(k), and their partial sums of o are added up. Not used with [`RowSource::Direct`], where
    /// a thread has all F.
    pub rows: u32,
    /// Values of a thread's tile, a multiple of 4.
    pub columns: u32,
    /// Threads along V of a work item; 1 with [`RowSource::Direct`].
    pub column_threads: u32,
    /// Most tokens in workgroup memory at a time; 1 with [`RowSource::Direct`].
    pub chunk_tokens: u32,
    /// Most query rows (tokens times query heads) in workgroup memory at a time; 1 with
    /// [`RowSource::Direct`].
    pub chunk_queries: u32,
    /// The source of the rows of q, k and v.
    pub row_source: RowSource,
    /// True if the lanes that share a row are neighbours in a subgroup and add up their sums by
    /// shuffles, which takes no barrier and no workgroup memory for partial sums, so that chunks may be
    /// longer. For 2, 4 or 8 lanes, on a device that was granted [`wgpu::Features::SUBGROUP`] and whose
    /// smallest subgroup has as many. `decode_step`, which is bound by memory, does without.
    #[cfg_attr(feature = "serde", serde(default))]
    pub subgroup_sums: bool,
}

/// The source of the rows of q, k and v that a thread multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RowSource {
    /// A chunk of tokens in workgroup memory, mapped once for all threads of a work item: for GPUs.
    Workgroup,
    /// Loads of the thread's own, each of which maps its row again: for CPU adapters, where a
    /// barrier costs more than that. Only for element-wise feature maps, and F up to 256.
    Direct,
    /// A chunk of tokens as factors of matrix units in f16, with sums in f32: see
    /// [`MatrixUnits`](crate::tuning::MatrixUnits). A tile is the columns of a subgroup, with all F.
    /// Prompts alone; decoding is as with [`RowSource::Workgroup`], but for delta rules, which have
    /// no other form here. Only for f16 and bf16, rules without decays of rows, element-wise
    /// feature maps, and F up to 256.
    Matrices {
        /// Lanes of a subgroup.
        subgroup_size: u32,
    },
}

impl Layout {
    /// Tiles of `rows` features by `columns` values, `column_threads` side by side, with chunks of
    /// `chunk` tokens and as many query rows in workgroup memory.
    #[must_use]
    pub fn workgroup(rows: u32, columns: u32, column_threads: u32, chunk: u32) -> Self {
        Self {
            rows,
            columns,
            column_threads,
            chunk_tokens: chunk,
            chunk_queries: chunk,
            row_source: RowSource::Workgroup,
            subgroup_sums: false,
        }
    }

    /// All features of `columns` values in a thread that loads its own rows.
    #[must_use]
    pub fn direct(columns: u32) -> Self {
        Self {
            rows: 4,
            columns,
            column_threads: 1,
            chunk_tokens: 1,
            chunk_queries: 1,
            row_source: RowSource::Direct,
            subgroup_sums: false,
        }
    }

    /// The same with other lengths of a chunk.
    #[must_use]
    pub fn with_chunk(self, tokens: u32, queries: u32) -> Self {
        Self { chunk_tokens: tokens, chunk_queries: queries, ..self }
    }

    /// The same with sums by subgroup operations, or without.
    #[must_use]
    pub fn with_subgroup_sums(self, subgroup_sums: bool) -> Self {
        Self { subgroup_sums, ..self }
    }

    /// True if the other runs the same shaders, whatever their numbers.
    pub(crate) fn is_like(self, other: Self) -> bool {
        self.row_source == other.row_source
    }

    /// Features of a thread's tile.
    pub(crate) fn tile_rows(self, config: &Config) -> u32 {
        match self.row_source {
            RowSource::Workgroup | RowSource::Matrices { .. } => self.rows.max(1),
            RowSource::Direct => config.features().min(WHOLE_FEATURES).next_multiple_of(4).max(4),
        }
    }

    /// Threads that share a row of phi(k), each with `rows` features of it.
    pub(crate) fn lanes(self, config: &Config) -> u32 {
        if self.subgroup_size().is_some() {
            // Subgroups share the features of a product, each with as many matrices.
            let tiles = config.features().div_ceil(self.tile_rows(config));
            return tiles.next_multiple_of(self.column_threads.max(1));
        }
        match config.features() {
            features @ ..=WHOLE_FEATURES => features.div_ceil(self.tile_rows(config)),
            _ => BLOCK_FEATURES.div_ceil(self.tile_rows(config)),
        }
    }

    /// Features of a work item.
    pub(crate) fn block_features(self, config: &Config) -> u32 {
        self.lanes(config) * self.tile_rows(config)
    }

    /// Blocks of F, each with work items of its own (split-F).
    pub(crate) fn feature_blocks(self, config: &Config) -> u32 {
        config.features().div_ceil(self.block_features(config).max(1)).max(1)
    }

    /// Values of a work item.
    #[must_use]
    pub fn block_columns(self) -> u32 {
        self.columns.saturating_mul(self.column_threads)
    }

    /// Work items of a workgroup.
    pub(crate) fn items(self) -> u32 {
        match self.row_source {
            RowSource::Workgroup | RowSource::Matrices { .. } => 1,
            RowSource::Direct => DIRECT_THREADS,
        }
    }

    /// Threads of a workgroup.
    pub(crate) fn threads(self, config: &Config) -> u64 {
        match self.row_source {
            RowSource::Workgroup => u64::from(self.lanes(config)) * u64::from(self.column_threads),
            RowSource::Direct => DIRECT_THREADS.into(),
            RowSource::Matrices { subgroup_size } => {
                u64::from(subgroup_size) * u64::from(self.column_threads)
            }
        }
    }

    /// Bytes of workgroup memory that `segment_output` takes, which takes the most.
    #[must_use]
    pub fn workgroup_memory(self, config: &Config) -> u64 {
        if self.row_source == RowSource::Direct {
            return 0;
        }
        if self.subgroup_size().is_some() {
            return self.matrix_memory(config);
        }
        let (lanes, features) = (self.lanes(config), self.block_features(config));
        memory::of_chunk(
            config,
            [self.chunk_tokens, self.chunk_queries],
            [lanes, features, self.block_columns()],
            self.subgroup_sums,
        )
    }

    fn sizes(self) -> [(&'static str, u32); 5] {
        [
            ("rows", self.rows),
            ("columns", self.columns),
            ("column_threads", self.column_threads),
            ("chunk_tokens", self.chunk_tokens),
            ("chunk_queries", self.chunk_queries),
        ]
    }

    /// True if every size is in range and the device has room for it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tuning`] or [`ConfigError::Limit`], naming the first that is not met.
    pub fn check(self, config: &Config, limits: &wgpu::Limits) -> Result<(), ConfigError> {
        let refuse = |what, required: String, actual: u32| {
            Err(ConfigError::Tuning { what, required, actual: actual.to_string() })
        };
        for (what, actual) in self.sizes() {
            // 2^12 of anything is beyond every device; it also keeps the arithmetic far from
            // overflow.
            if !(1..=1 << 12).contains(&actual) {
                return refuse(what, "1 to 4096".to_owned(), actual);
            }
        }
        for (what, actual) in [("rows", self.rows), ("columns", self.columns)] {
            if !actual.is_multiple_of(4) {
                return refuse(what, "a multiple of 4".to_owned(), actual);
            }
        }
        if self.row_source == RowSource::Direct {
            if !config.is_element_wise() || config.features() > WHOLE_FEATURES {
                let required = "Workgroup for row-wise feature maps".to_owned();
                return refuse("row_source", required, self.rows);
            }
            for (what, actual) in [
                ("column_threads", self.column_threads),
                ("chunk_tokens", self.chunk_tokens),
                ("chunk_queries", self.chunk_queries),
            ] {
                if actual != 1 {
                    return refuse(what, "1 where rows are loaded directly".to_owned(), actual);
                }
            }
        }
        if self.subgroup_sums && !self.fits_subgroup(config, u32::MAX) {
            let required = "2, 4 or 8 lanes through workgroup memory for subgroup sums".to_owned();
            return refuse("rows", required, self.rows);
        }
        if let Some(subgroup_size) = self.subgroup_size() {
            self.check_matrices(config, subgroup_size)?;
        }
        check_limits(limits, self.threads(config), self.workgroup_memory(config))
    }
}

//! Layouts: the tile of mu that a thread holds in registers, and the source of rows.

use crate::error::ConfigError;
use crate::problem::config::{Config, Gating};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;

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
/// Features of a block where they do not (split-F). Fewer make more partial sums of o, more leave less
/// workgroup memory for rows.
const BLOCK_FEATURES: u32 = 128;

/// Fewest lanes of a wave on usual GPUs; workgroups of fewer threads leave lanes idle.
const WAVE: u32 = 32;
/// Bytes of workgroup memory of so many lanes.
const WAVE_MEMORY: u64 = 4 << 10;

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
    /// Loads of the thread's own, each of which maps its row again: for CPU adapters, where a barrier
    /// costs more than that. Only for element-wise feature maps, and F up to 256.
    Direct,
    /// A chunk of tokens as factors of matrix units in f16, with sums in f32: see
    /// [`MatrixUnits`](crate::tuning::MatrixUnits). A tile is the columns of a subgroup, with all F.
    /// Prompts alone; decoding is as with [`RowSource::Workgroup`], but for delta rules, which have no
    /// other form here. Only for f16 and bf16, rules without decays of rows, element-wise feature maps, and F up to
    /// 256.
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

    /// Matrices of `size` rows and columns, 8 or 16, and `subgroups` of `subgroup_size` lanes with `size`
    /// columns each.
    #[cfg(any(test, not(target_arch = "wasm32")))]
    pub(crate) fn matrices(size: u32, subgroups: u32, subgroup_size: u32) -> Self {
        Self {
            rows: size,
            columns: size,
            column_threads: subgroups,
            chunk_tokens: size,
            chunk_queries: size,
            row_source: RowSource::Matrices { subgroup_size },
            subgroup_sums: false,
        }
    }

    /// Those worth trying, best first: as many subgroups as share a chunk without padding.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn all_matrices(config: &Config, size: u32, subgroup_size: u32) -> Vec<Self> {
        let tiles = [config.features(), config.value_dim].map(|n| n.div_ceil(size));
        let fits = |subgroups: &u32| tiles.iter().all(|tiles| tiles.is_multiple_of(*subgroups));
        let subgroups = [8, 4, 2, 1].into_iter().filter(fits);
        subgroups.map(|subgroups| Self::matrices(size, subgroups, subgroup_size)).collect()
    }

    /// Lanes of a subgroup, `None` without matrix units.
    pub(crate) fn subgroup_size(self) -> Option<u32> {
        match self.row_source {
            RowSource::Matrices { subgroup_size } => Some(subgroup_size),
            _ => None,
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

    /// The direct layout of a CPU adapter: the widest tile that compiles in a second or two.
    pub(crate) fn for_cpu(config: &Config) -> Self {
        let widest = match config.key_dim {
            _ if !config.is_vec4() => 4,
            ..=64 => 16,
            65..=128 => 16,
            _ => 4,
        };
        Self::direct(config.value_dim.next_multiple_of(4).min(widest))
    }

    /// The workgroup layouts worth trying, best first: work items as wide as V, so that few of them
    /// load the same q and k again; then long chunks, so that barriers are few. On a GPU those first whose
    /// memory leaves a SIMD enough waves. `subgroup` is the least lanes of a subgroup, 1 without.
    pub(crate) fn workgroups(config: &Config, is_cpu: bool, subgroup: u32) -> Vec<Self> {
        let widest = config.value_dim.div_ceil(4).next_power_of_two();
        // One lane needs no partial sums; two of 16 rows have room for more of them at a time.
        let rows = match config.features() {
            features @ ..=32 if is_cpu => features.next_multiple_of(4),
            _ if is_cpu => 16,
            features => rows_of_full_waves(features, widest),
        };
        let of = |rows: u32, chunks: &[u32]| -> Vec<Self> {
            let widths = std::iter::successors(Some(widest), |n| Some(n / 2).filter(|n| *n > 0));
            let each = widths.flat_map(|threads| {
                chunks.iter().map(move |chunk| Self::workgroup(rows, 4, threads, *chunk))
            });
            each.collect()
        };
        let mut layouts = Vec::new();
        if !is_cpu {
            // Shuffles pay where chunks are longer without partial sums: docs/performance.md.
            let longer = of(rows, &[16, 8, 6]).into_iter();
            layouts.extend(
                longer
                    .filter(|layout| layout.fits_subgroup(config, subgroup))
                    .map(|layout| layout.with_subgroup_sums(true)),
            );
            // Rows as they are and their projections take the same memory for more threads.
            layouts.extend(of(rows, &[8, 4]));
            if !config.is_element_wise() {
                layouts.extend(of(rows.min(8), &[8, 4, 2]));
            }
            layouts.retain(|layout| layout.leaves_memory(config));
        }
        // Chunks of 8 tokens leave workgroup memory for twice as many workgroups as those of 16.
        layouts.extend(of(rows, &[8, 4]));
        layouts.extend(of(rows, &[8, 4, 2, 1]));
        layouts
    }

    /// True if workgroup memory does not limit a SIMD to fewer than 8 waves of 32 lanes, of which RDNA has
    /// 32 KiB for each: see `docs/gpu-compilers.md`.
    fn leaves_memory(self, config: &Config) -> bool {
        let lanes = self.threads(config).next_multiple_of(WAVE.into());
        self.workgroup_memory(config) <= WAVE_MEMORY / u64::from(WAVE) * lanes
    }

    /// True if the other runs the same shaders, whatever their numbers.
    pub(crate) fn is_like(self, other: Self) -> bool {
        self.row_source == other.row_source
    }

    /// True if neighbours in subgroups of `subgroup` lanes can add up the sums of a row.
    fn fits_subgroup(self, config: &Config, subgroup: u32) -> bool {
        let lanes = self.lanes(config);
        self.row_source == RowSource::Workgroup && matches!(lanes, 2 | 4 | 8) && lanes <= subgroup
    }

    /// Refuses sums by subgroup operations on a device whose subgroups have `subgroup` lanes at least.
    pub(crate) fn check_subgroups(self, config: &Config, subgroup: u32) -> Result<(), ConfigError> {
        if !self.subgroup_sums || self.fits_subgroup(config, subgroup) {
            return Ok(());
        }
        let lanes = self.lanes(config);
        Err(ConfigError::Tuning {
            what: "subgroup_sums",
            required: format!("false without Features::SUBGROUP and subgroups of {lanes} lanes"),
            actual: format!("true, and subgroups of {subgroup}"),
        })
    }

    /// Without sums by subgroup operations, and with them where lanes can.
    pub(crate) fn with_and_without_subgroups(self, config: &Config, subgroup: u32) -> Vec<Self> {
        let mut both = vec![self.with_subgroup_sums(false)];
        if self.fits_subgroup(config, subgroup) {
            both.push(self.with_subgroup_sums(true));
        }
        both
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
        chunk_memory(
            config,
            [self.chunk_tokens, self.chunk_queries],
            [lanes, features, self.block_columns()],
            self.subgroup_sums,
        )
    }

    /// Bytes of `matrix/segment_output.wgsl` and of the files it imports.
    fn matrix_memory(self, config: &Config) -> u64 {
        let [tokens, features, columns] =
            [self.rows, self.block_features(config), self.block_columns()].map(u64::from);
        // Keys, queries, values, the state and the scores.
        let halves = tokens * (2 * features + columns) + features * columns + tokens * tokens;
        // A panel of the state, scores times values; where o is normalised, nu and products with it;
        // the decays between two tokens.
        let of_nu = if config.is_normalized() { features + self.threads(config) } else { 8 };
        let of_pairs = if config.update_rule.decay().is_some() { tokens * (tokens + 1) } else { 4 };
        let floats = 2 * tokens * columns + of_nu + of_pairs;
        // Thirteen of a token, two more of a delta rule; arrays begin at multiples of 16 bytes, and all
        // threads share a work item.
        let of_token = if config.update_rule.beta().is_some() { 15 } else { 13 };
        2 * halves + 4 * (floats + of_token * tokens) + 160
    }

    /// Refuses what the matrix units have no shader for.
    fn check_matrices(self, config: &Config, subgroup_size: u32) -> Result<(), ConfigError> {
        let refuse = |what, required: &str, actual: String| {
            Err(ConfigError::Tuning { what, required: required.to_owned(), actual })
        };
        if config.gates() == Some(Gating::PerRow) {
            let required = "without decays of rows, on matrix units";
            return refuse("update_rule", required, config.update_rule.name().to_owned());
        }
        if config.dtype == Dtype::F32 {
            let actual = config.dtype.name().to_owned();
            return refuse("dtype", "F16 or Bf16 on matrix units", actual);
        }
        if !config.is_element_wise() || config.features() > WHOLE_FEATURES {
            let required = "element-wise, with up to 256 features, on matrix units";
            return refuse("feature_map", required, config.key_map().to_string());
        }
        for (what, required, actual, is_met) in [
            ("rows", "8 or 16, the rows of a matrix", self.rows, matches!(self.rows, 8 | 16)),
            (
                "columns",
                "a multiple of the rows of a matrix",
                self.columns,
                self.columns.is_multiple_of(self.rows),
            ),
            (
                "chunk_tokens",
                "the rows of a matrix",
                self.chunk_tokens,
                self.chunk_tokens == self.rows,
            ),
            (
                "chunk_queries",
                "the rows of a matrix",
                self.chunk_queries,
                self.chunk_queries == self.rows,
            ),
            (
                "subgroup_size",
                "4 to 128, with the rows of a matrix or a multiple in a workgroup",
                subgroup_size,
                (4..=128).contains(&subgroup_size)
                    && self.threads(config).is_multiple_of(self.rows.into()),
            ),
        ] {
            if !is_met {
                return refuse(what, required, actual.to_string());
            }
        }
        Ok(())
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
            // 2^12 of anything is beyond every device; it also keeps the arithmetic far from overflow.
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

/// Features of a thread: 16, or fewer where its workgroup would not fill a wave.
fn rows_of_full_waves(features: u32, column_threads: u32) -> u32 {
    let fills = |rows: &u32| features.div_ceil(*rows) * column_threads >= WAVE;
    let most = features.next_multiple_of(4).min(16);
    [16, 12, 8].into_iter().filter(|rows| *rows <= most).find(fills).unwrap_or(4)
}

/// True if a device has the threads and the workgroup memory that a kernel asks of it.
pub(crate) fn check_limits(
    limits: &wgpu::Limits,
    threads: u64,
    memory: u64,
) -> Result<(), ConfigError> {
    let threads = threads.max(SCAN_THREADS.into());
    for (what, required, actual) in [
        (
            "max_compute_invocations_per_workgroup",
            threads,
            limits.max_compute_invocations_per_workgroup,
        ),
        ("max_compute_workgroup_size_x", threads, limits.max_compute_workgroup_size_x),
        ("max_compute_workgroup_storage_size", memory, limits.max_compute_workgroup_storage_size),
    ] {
        if u64::from(actual) < required {
            return Err(ConfigError::Limit { what, required, actual: actual.into() });
        }
    }
    Ok(())
}

/// Bytes of `chunk/workgroup.wgsl` and of the files it imports.
fn chunk_memory(
    config: &Config,
    [tokens, queries]: [u32; 2],
    [lanes, features, columns]: [u32; 3],
    subgroup_sums: bool,
) -> u64 {
    let [tokens, queries, lanes] = [tokens, queries, lanes].map(u64::from);
    let (features, columns) = (u64::from(features), u64::from(columns));
    let partial_sums = match lanes {
        // A word of each thread and a flag, in vec4s: a thread has at least four columns.
        _ if subgroup_sums => (lanes * columns / 4).next_multiple_of(4) + 4,
        1 => 4,
        _ => queries * lanes * columns,
    };
    let mut floats = (tokens + queries) * features + tokens * columns + partial_sums;
    if config.normalization.eps().is_some() {
        // nu, and its products with the queries.
        floats += features + queries * (features / 4);
    }
    if config.scales_queries() {
        // The factor and the row max of each query.
        floats += 2 * queries;
    }
    if !config.is_element_wise() {
        // Rows as they are, the projections kept of them, and what all features of one share.
        let kept = |map: &FeatureMap| map.kept_projections(config.key_dim);
        let kept = kept(config.key_map()).max(kept(config.query_map()));
        let row = config.key_dim.div_ceil(4) + kept + 1;
        floats += 4 * ((tokens + queries) * u64::from(row) + 1) + 2 * queries;
    }
    if config.update_rule.beta().is_some() && lanes > 1 {
        // Products of each key with those before it, and their sums.
        floats += (tokens * tokens / 2).max(1) * (features / 4 + 1) + 8;
    }
    // Arrays of vec4 begin at multiples of 16 bytes, and all threads share a work item.
    4 * floats + 128
}

/// The numbers of `decode_step`, whose threads go through their rows of mu a tile of four at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DecodeLayout {
    /// Tokens of a sequence at most.
    pub(crate) tokens: u32,
    /// Output heads that read a value head.
    pub(crate) heads: u32,
    /// Values of a thread.
    pub(crate) columns: u32,
    /// Threads along V of a work item.
    pub(crate) column_threads: u32,
    /// Threads that share a row of phi(k).
    pub(crate) lanes: u32,
    /// Tiles of four features that a thread goes through.
    pub(crate) lane_tiles: u32,
    /// Value heads of a workgroup.
    pub(crate) items: u32,
}

/// Query rows of a value head whose sums a thread of `decode_step` can hold.
const MAX_DECODE_ROWS: u32 = 32;
/// The same where rows are loaded directly.
const MAX_DIRECT_DECODE_ROWS: u32 = 16;
/// Bytes of workgroup memory of a `decode_step` of which many run at once.
const DECODE_MEMORY: u32 = 16 << 10;

/// Tokens of a delta rule in `decode_step`, whose keys a thread multiplies with one another. Where
/// lanes share a row, `segment_output` corrects values and decodes as well.
const MAX_DELTA_TOKENS: u32 = 8;

impl DecodeLayout {
    /// For sequences of up to `tokens` tokens, `None` where there is no room for their query rows.
    pub(crate) fn new(
        config: &Config,
        layout: Layout,
        [tokens, heads]: [u32; 2],
        limits: &wgpu::Limits,
    ) -> Option<Self> {
        let corrects = config.update_rule.beta().is_some();
        if corrects && (layout.row_source != RowSource::Direct || tokens > MAX_DELTA_TOKENS) {
            return None;
        }
        let tokens = tokens.max(1).next_power_of_two();
        if tokens.checked_mul(heads)? > MAX_DECODE_ROWS || layout.feature_blocks(config) > 1 {
            return None;
        }
        let features_vec4 = config.features().div_ceil(4);
        if layout.row_source == RowSource::Direct {
            // Rows are unrolled, and every load compiles to a loop over lanes.
            if tokens * heads > MAX_DIRECT_DECODE_ROWS {
                return None;
            }
            let columns = if config.is_vec4() { 16 } else { 4 };
            let blocks = config.value_dim.div_ceil(columns);
            // CPU adapters run threads in eights or so.
            let items = (DIRECT_THREADS / blocks).max(1);
            let lane_tiles = features_vec4;
            let column_threads = 1;
            let found =
                Self { tokens, heads, columns, column_threads, lanes: 1, lane_tiles, items };
            let threads = limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x);
            return (found.threads(config) <= threads).then_some(found);
        }
        let column_threads = config.value_dim.div_ceil(4).next_power_of_two();
        let most = limits.max_compute_invocations_per_workgroup.min(256);
        let mut lanes =
            (most / column_threads).min(features_vec4).checked_ilog2().map(|n| 1 << n)?;
        loop {
            let lane_tiles = features_vec4.div_ceil(lanes);
            let found =
                Self { tokens, heads, columns: 4, column_threads, lanes, lane_tiles, items: 1 };
            let memory = found.workgroup_memory(config);
            let limit = limits.max_compute_workgroup_storage_size;
            if memory <= u64::from(limit.min(DECODE_MEMORY)) {
                return Some(found);
            }
            if lanes == 1 {
                return (memory <= u64::from(limit)).then_some(found);
            }
            lanes /= 2;
        }
    }

    /// Query rows of a work item.
    pub(crate) fn rows(self) -> u32 {
        self.tokens * self.heads
    }

    /// Value blocks of a value head, each a thread of its workgroup, where rows are loaded directly.
    pub(crate) fn value_blocks(self, config: &Config) -> u32 {
        config.value_dim.div_ceil(self.columns * self.column_threads)
    }

    /// Threads of a workgroup.
    pub(crate) fn threads(self, config: &Config) -> u32 {
        self.lanes * self.column_threads * self.items * self.value_blocks(config)
    }

    fn workgroup_memory(self, config: &Config) -> u64 {
        let features = 4 * self.lanes * self.lane_tiles;
        let columns = self.columns * self.column_threads;
        chunk_memory(config, [self.tokens, self.rows()], [self.lanes, features, columns], false)
    }
}

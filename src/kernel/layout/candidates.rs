//! The layouts worth trying.

use super::{Layout, RowSource};
use crate::problem::config::Config;

/// Fewest lanes of a wave on usual GPUs; workgroups of fewer threads leave lanes idle.
const WAVE: u32 = 32;
/// Bytes of workgroup memory of so many lanes.
const WAVE_MEMORY: u64 = 4 << 10;

impl Layout {
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
    /// load the same q and k again; then long chunks, so that barriers are few. On a GPU those
    /// first whose memory leaves a SIMD enough waves. `subgroup` is the least lanes of a subgroup,
    /// 1 without.
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
            // Chunks are longer without partial sums: docs/performance.md.
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

    /// The same with as many value blocks, each an even share of V: the widths of a pass of the
    /// backward pass are often no powers of two.
    pub(crate) fn with_even_columns(self, config: &Config) -> Self {
        if self.row_source != RowSource::Workgroup {
            return self;
        }
        let blocks = config.value_dim.div_ceil(self.block_columns().max(1)).max(1);
        let column_threads = config.value_dim.div_ceil(blocks).div_ceil(self.columns.max(1));
        Self { column_threads, ..self }
    }

    /// True if workgroup memory does not limit a SIMD to fewer than 8 waves of 32 lanes, of which
    /// RDNA has 32 KiB for each: see `docs/gpu-compilers.md`.
    fn leaves_memory(self, config: &Config) -> bool {
        let lanes = self.threads(config).next_multiple_of(WAVE.into());
        self.workgroup_memory(config) <= WAVE_MEMORY / u64::from(WAVE) * lanes
    }
}

/// Features of a thread: 16, or fewer where its workgroup would not fill a wave.
fn rows_of_full_waves(features: u32, column_threads: u32) -> u32 {
    let fills = |rows: &u32| features.div_ceil(*rows) * column_threads >= WAVE;
    let most = features.next_multiple_of(4).min(16);
    [16, 12, 8].into_iter().filter(|rows| *rows <= most).find(fills).unwrap_or(4)
}

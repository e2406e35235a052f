//! The numbers that a module is compiled for.

use crate::kernel::assembler::{Number, Numbers, Unbound};
use crate::kernel::layout::{BLOCK_ENTRIES, DecodeLayout, Layout, SCAN_THREADS, THREAD_ENTRIES};
use crate::kernel::stage::Stage;
use crate::problem::config::{Config, Gating};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::{BetaActivation, BetaDims, DecayActivation};

/// The state that a sequence, or a segment of it, starts from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum InitialState {
    #[default]
    Zero = 0,
    Given = 1,
    /// Read where it is written.
    InPlace = 2,
}

/// A variant of a stage: everything else that it is compiled for. Code for states that a call does
/// not have would cost a CPU adapter as much compile time as all the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) initial_state: InitialState,
    /// True if the states of segments are in scratch.
    pub(crate) segment_states: bool,
    pub(crate) final_state: bool,
    /// True if a buffer says which tokens a sequence has.
    pub(crate) has_lengths: bool,
    /// True if tokens between sequences may belong to none.
    pub(crate) has_gaps: bool,
    /// True if a buffer says which slot of a pool a sequence has.
    pub(crate) has_slots: bool,
    /// True if that buffer also has the slot that a sequence reads.
    pub(crate) has_sources: bool,
    /// States of a sequence that are stored on the way.
    pub(crate) checkpoints: u32,
    /// True if that buffer is unchecked, so that its entries may conflict.
    pub(crate) is_untrusted: bool,
    /// True if each work item has one output head.
    pub(crate) has_one_head: bool,
    /// True if the first token of a row of the batch does not follow the last of the row before.
    pub(crate) has_batch_strides: bool,
    /// True if rows begin at any element, whatever their widths are.
    pub(crate) has_unaligned_rows: bool,
    /// True if q, k and v may be one another's memory, which only bindings that are read may be.
    pub(crate) reads_only: bool,
    /// True if a thread loads its share of a chunk before the chunk before it is done.
    pub(crate) rows_ahead: bool,
    /// True if a status says which key has a feature that is infinite or NaN.
    pub(crate) checks_keys: bool,
    /// The numbers of `decode_step`.
    pub(crate) decode: Option<DecodeLayout>,
    /// Bindings that the call does not have.
    pub(crate) unbound: Unbound,
}

/// The tile of a stage and the threads around it.
struct Tile {
    rows: u32,
    columns: u32,
    column_threads: u32,
    lanes: u32,
    lane_tiles: u32,
    threads: u32,
    chunk_tokens: u32,
    chunk_queries: u32,
}

/// Every number that a file may import, for this stage.
pub(crate) fn numbers(stage: Stage, config: &Config, layout: Layout, variant: Variant) -> Numbers {
    use Number::{Bool, F32, U32};
    let eps = config.normalization.eps();
    let tile = tile_of(stage, config, layout, variant);
    // A matrix has as many columns as mu has rows.
    let is_transition = stage == Stage::SegmentTransition;
    let value_dim = if is_transition { config.features() } else { config.value_dim };
    let block_features = tile.rows * tile.lanes * tile.lane_tiles;
    let block_columns = tile.columns * tile.column_threads;
    let mut numbers = vec![
        ("KEY_DIM", U32(config.key_dim)),
        ("VALUE_DIM", U32(value_dim)),
        ("FEATURE_DIM", U32(config.features())),
        ("HAS_VALUES", Bool(!is_transition)),
        ("FEATURE_BLOCKS", U32(layout.feature_blocks(config))),
        ("NORMALIZE", Bool(eps.is_some())),
        ("SCALES_QUERIES", Bool(config.scales_queries())),
        ("SCALE", F32(config.scale)),
        ("EPS", F32(eps.unwrap_or(0.0))),
        ("IS_BF16", Bool(config.dtype == Dtype::Bf16)),
        ("SCAN_THREADS", U32(SCAN_THREADS)),
        ("THREAD_ENTRIES", U32(THREAD_ENTRIES)),
        ("BLOCK_ENTRIES", U32(BLOCK_ENTRIES)),
        ("STATE_ZERO", U32(InitialState::Zero as u32)),
        ("STATE_IN_PLACE", U32(InitialState::InPlace as u32)),
        ("INITIAL_STATE", U32(variant.initial_state as u32)),
        ("SEGMENT_STATES", Bool(variant.segment_states)),
        ("FINAL_STATE", Bool(variant.final_state)),
        ("HAS_LENGTHS", Bool(variant.has_lengths)),
        ("HAS_GAPS", Bool(variant.has_gaps)),
        ("HAS_SLOTS", Bool(variant.has_slots)),
        ("HAS_TABLE", Bool(variant.has_lengths || variant.has_slots)),
        ("HAS_SOURCES", Bool(variant.has_sources)),
        ("CHECKPOINTS", U32(variant.checkpoints)),
        ("IS_UNTRUSTED", Bool(variant.is_untrusted)),
        ("HAS_BATCH_STRIDES", Bool(variant.has_batch_strides)),
        // Most iterations of a loop over a thread's share of a chunk, and of one over its tokens, that
        // is written out.
        // True if a thread loads its share of a chunk before the chunk before it is done.
        ("ROWS_AHEAD", Bool(variant.rows_ahead)),
        ("SHARE_UNROLL", U32(if variant.rows_ahead { 4 } else { 1 })),
        ("CHUNK_UNROLL", U32(if variant.rows_ahead { 16 } else { 1 })),
        // Output heads of a work item where that is known, else 0.
        (
            "ITEM_HEADS",
            U32(variant.decode.map_or(variant.has_one_head.into(), |decode| decode.heads)),
        ),
        // The tile of a thread, and the threads around it.
        ("ROWS", U32(tile.rows)),
        ("ROWS_VEC4", U32(tile.rows / 4)),
        ("COLUMNS_VEC4", U32(tile.columns / 4)),
        ("TILE_LEN", U32(tile.rows * tile.columns / 4)),
        ("COLUMN_THREADS", U32(tile.column_threads)),
        ("LANES", U32(tile.lanes)),
        ("LANE_TILES", U32(tile.lane_tiles)),
        // Query rows of a chunk that each of those lanes writes.
        ("LANE_ROWS", U32(tile.chunk_queries.div_ceil(tile.lanes.max(1)))),
        ("THREADS", U32(tile.threads)),
        ("CHUNK_TOKENS", U32(tile.chunk_tokens)),
        ("CHUNK_QUERIES", U32(tile.chunk_queries)),
        ("BLOCK_VEC4", U32(block_features / 4)),
        ("BLOCK_COLUMNS_VEC4", U32(block_columns / 4)),
        ("FULL_ROWS", Bool(config.features().is_multiple_of(block_features.max(1)))),
        ("FULL_COLUMNS", Bool(value_dim.is_multiple_of(block_columns.max(1)))),
    ];
    numbers.extend(gate_numbers(config));
    if stage.is_of_matrices(layout) {
        numbers.extend(matrix_numbers(stage, config, layout));
    }
    numbers.extend(tile.shares(config, [block_features / 4, block_columns / 4]));
    if let Some(decode) = variant.decode {
        numbers.extend([
            ("DECODE_TOKENS", U32(decode.tokens)),
            ("DECODE_HEADS", U32(decode.heads)),
            ("DECODE_ROWS", U32(decode.rows())),
            ("DECODE_ITEMS", U32(decode.items)),
            ("VALUE_BLOCKS", U32(decode.value_blocks(config))),
            ("LOADS_AHEAD", Bool(decode.tiles_ahead() > 0)),
            ("TILES_AHEAD", U32(decode.tiles_ahead().max(1))),
        ]);
    }
    numbers.extend(map_numbers(config));
    numbers
}

impl Tile {
    /// The largest shares that a thread has of a chunk's rows, products and sums.
    fn shares(&self, config: &Config, [features, columns]: [u32; 2]) -> Numbers {
        let [tokens, queries] = [self.chunk_tokens, self.chunk_queries];
        // As they are in storage.
        let row = if config.is_element_wise() { features } else { config.key_dim.div_ceil(4) };
        let share = |elements: u32| Number::U32(elements.div_ceil(self.threads.max(1)).max(1));
        vec![
            ("KEY_SHARE", share(tokens.saturating_mul(row))),
            ("QUERY_SHARE", share(queries.saturating_mul(row))),
            ("VALUE_SHARE", share(tokens.saturating_mul(columns))),
            ("PRODUCT_SHARE", share(queries.saturating_mul(features))),
            ("OUTPUT_SHARE", share(queries.saturating_mul(columns))),
            ("ROW_SHARE", share(queries)),
            ("NU_SHARE", share(features)),
            ("COLUMN_SHARE", share(columns)),
        ]
    }
}

fn tile_of(stage: Stage, config: &Config, layout: Layout, variant: Variant) -> Tile {
    match variant.decode.filter(|_| stage == Stage::DecodeStep) {
        Some(decode) => Tile {
            rows: 4,
            columns: decode.columns,
            column_threads: decode.column_threads,
            lanes: decode.lanes,
            lane_tiles: decode.lane_tiles,
            threads: decode.threads(config),
            chunk_tokens: decode.tokens,
            chunk_queries: decode.rows(),
        },
        None => Tile {
            rows: layout.tile_rows(config),
            columns: layout.columns,
            column_threads: layout.column_threads,
            lanes: layout.lanes(config),
            lane_tiles: 1,
            // `Layout::check` has compared them with the device's limits.
            threads: layout.threads(config) as u32,
            chunk_tokens: layout.chunk_tokens,
            chunk_queries: layout.chunk_queries,
        },
    }
}

/// Matrices of a work item, and elements of its threads.
fn matrix_numbers(stage: Stage, config: &Config, layout: Layout) -> Numbers {
    use Number::U32;
    let (size, subgroups) = (layout.rows, layout.column_threads);
    let feature_tiles = layout.lanes(config);
    let column_tiles = layout.columns / size;
    // `Layout::check` has compared them with the device's limits.
    let threads = layout.threads(config) as u32;
    let of_thread = |elements: u32| U32(elements.div_ceil(threads));
    vec![
        ("MATRIX", U32(size)),
        ("MATRIX_VEC4", U32(size / 4)),
        ("PAIRS", U32(size * size)),
        // Keys, and the queries of a head.
        ("FACTOR_SETS", U32(if stage == Stage::SegmentOutput { 2 } else { 1 })),
        ("SUBGROUPS", U32(subgroups)),
        ("FEATURE_TILES", U32(feature_tiles)),
        ("SUBGROUP_TILES", U32(feature_tiles / subgroups)),
        ("COLUMN_TILES", U32(column_tiles)),
        ("STATE_TILES", U32(feature_tiles * column_tiles)),
        ("FEATURE_LOADS", of_thread(size * layout.block_features(config) / 4)),
        ("VALUE_LOADS", of_thread(size * layout.block_columns() / 4)),
        ("PAIR_LOADS", of_thread(size * size)),
    ]
}

/// The decays and betas, as `token_gates` reads them and as `gates/` has them.
fn gate_numbers(config: &Config) -> Numbers {
    use Number::{Bool, F32, U32};
    let (decay, beta) = (config.update_rule.decay(), config.update_rule.beta());
    let (decay_activation, lower_bound) = match decay.map(|decay| decay.activation) {
        None | Some(DecayActivation::None) => (0, 0.0),
        Some(DecayActivation::Softplus) => (1, 0.0),
        Some(DecayActivation::Sigmoid { lower_bound }) => (2, lower_bound),
    };
    let row = config.gate_row();
    let is_sigmoid = beta.is_some_and(|beta| beta.activation == BetaActivation::Sigmoid);
    vec![
        ("HAS_DECAY", Bool(decay.is_some())),
        ("DECAY_ROWS", U32(config.decay_rows())),
        ("DECAY_IS_CONSTANT", Bool(config.has_constant_decay())),
        ("DECAY_ACTIVATION", U32(decay_activation)),
        ("DECAY_IS_HALF", Bool(decay.is_some_and(|decay| decay.dtype != Dtype::F32))),
        ("LOWER_BOUND", F32(lower_bound)),
        ("HAS_BETA", Bool(beta.is_some())),
        ("HAS_SHARED_BETA", Bool(beta.is_some_and(|beta| beta.dims == BetaDims::Shared))),
        ("BETA_ACTIVATION", U32(if is_sigmoid { 2 } else { 0 })),
        ("BETA_IS_HALF", Bool(beta.is_some_and(|beta| beta.dtype != Dtype::F32))),
        ("GATE_BETA", U32(if config.gates() == Some(Gating::PerRow) { row - 4 } else { 1 })),
        ("GATE_ROW", U32(row)),
    ]
}

/// The maps, and the numbers that `map/` and `chunk/row_wise` need of them.
fn map_numbers(config: &Config) -> Numbers {
    use Number::{Bool, F32, U32};
    let (keys, queries) = (config.key_map(), config.query_map());
    let kept = [keys, queries].map(|map| map.kept_projections(config.key_dim));
    let row = |map: &FeatureMap| map.matrices() * map.matrix_rows(config.key_dim).div_ceil(4);
    let mut numbers = vec![
        ("KEY_MAP", U32(keys.code())),
        ("QUERY_MAP", U32(queries.code())),
        ("L2_NORM", Bool(config.l2_norm)),
        ("ROOT_SCALE", F32(f64::from(config.key_dim).powf(-0.25) as f32)),
        ("FEATURE_SCALE", F32(f64::from(config.features()).powf(-0.5) as f32)),
        ("KEY_KEPT_VEC4", U32(kept[0])),
        ("QUERY_KEPT_VEC4", U32(kept[1])),
        ("KEPT_VEC4", U32(kept[0].max(kept[1]))),
        ("KEY_WEIGHT_VEC4", U32(row(keys))),
        ("QUERY_WEIGHT_VEC4", U32(row(queries))),
    ];
    numbers.extend(FeatureMap::CODES.map(|(name, code)| (name, U32(code))));
    numbers
}

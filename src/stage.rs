//! The stages, in order, each with its WGSL text, entry point and bindings.

use std::borrow::Cow;

use crate::{Config, Tile, Tuning};

/// Threads of `state_scan`, which has one a state element.
pub(crate) const SCAN_THREADS: u32 = 64;

/// A dispatch of the pipeline. Its name is the name of its shader file, entry point,
/// mirror (`reference::chunked`), GPU label, test trial and bench row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// What each segment adds to the state.
    SegmentState,
    /// From that what each segment starts from.
    StateScan,
    /// The outputs of each segment.
    SegmentOutput,
}

/// A tensor as the shaders bind it; the number is its binding in every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Binding {
    Params = 0,
    Q = 1,
    K = 2,
    V = 3,
    O = 4,
    StartMu = 5,
    StartNu = 6,
    EndMu = 7,
    EndNu = 8,
}

const COMMON: &str = include_str!("../shaders/common.wgsl");
const TENSORS_X1: &str = include_str!("../shaders/tensors_x1.wgsl");
const TENSORS_X4: &str = include_str!("../shaders/tensors_x4.wgsl");
const TILE_16X4: &str = include_str!("../shaders/tile_16x4.wgsl");
const TILE_32X16: &str = include_str!("../shaders/tile_32x16.wgsl");

impl Stage {
    /// Every stage, in the order of a pass.
    pub const ALL: [Stage; 3] = [Self::SegmentState, Self::StateScan, Self::SegmentOutput];

    /// The stage's one name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SegmentState => "segment_state",
            Self::StateScan => "state_scan",
            Self::SegmentOutput => "segment_output",
        }
    }

    /// The label of its pipeline and bind groups.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::SegmentState => "linear_attention.segment_state",
            Self::StateScan => "linear_attention.state_scan",
            Self::SegmentOutput => "linear_attention.segment_output",
        }
    }

    fn file(self) -> &'static str {
        match self {
            Self::SegmentState => include_str!("../shaders/segment_state.wgsl"),
            Self::StateScan => include_str!("../shaders/state_scan.wgsl"),
            Self::SegmentOutput => include_str!("../shaders/segment_output.wgsl"),
        }
    }

    pub(crate) fn bindings(self) -> &'static [Binding] {
        use Binding::{EndMu, EndNu, K, O, Params, Q, StartMu, StartNu, V};
        match self {
            Self::SegmentState => &[Params, K, V, EndMu, EndNu],
            Self::StateScan => &[Params, StartMu, StartNu, EndMu, EndNu],
            Self::SegmentOutput => &[Params, Q, K, V, O, StartMu, StartNu, EndMu, EndNu],
        }
    }

    /// The whole WGSL module of the stage: its file, then its tile, how tensors are
    /// read, and what all stages share, one after the other and nothing replaced.
    #[must_use]
    pub fn wgsl(self, config: &Config, tuning: &Tuning) -> Cow<'static, str> {
        let tensors = if crate::plan::is_quads(config) { TENSORS_X4 } else { TENSORS_X1 };
        let tile = match tuning.tile {
            Tile::F16V4 => TILE_16X4,
            Tile::F32V16 => TILE_32X16,
        };
        Cow::Owned([self.file(), tile, tensors, COMMON].join("\n"))
    }

    /// The values of the module's overrides: the one list there is.
    #[must_use]
    pub fn overrides(config: &Config, tuning: &Tuning) -> Vec<(&'static str, f64)> {
        let eps = config.normalization.eps();
        vec![
            ("KEY_DIM", config.key_dim.into()),
            ("VALUE_DIM", config.value_dim.into()),
            ("FEATURE_THREADS", tuning.feature_threads(config).into()),
            ("COLUMN_THREADS", tuning.column_threads.into()),
            ("CHUNK_TOKENS", tuning.chunk_tokens.into()),
            ("CHUNK_QUERIES", tuning.chunk_queries.into()),
            ("FEATURE_MAP", config.feature_map.code().into()),
            ("NORMALIZE", f64::from(u8::from(eps.is_some()))),
            ("SCALE", config.scale.into()),
            ("EPS", eps.unwrap_or(0.0).into()),
            ("SCAN_THREADS", SCAN_THREADS.into()),
        ]
    }
}

//! The stages, in order, each with its WGSL text, entry point and bindings.

use std::borrow::Cow;

use crate::layout::{SCAN_THREADS, feature_threads};
use crate::{Config, Layout};

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

/// What a sequence starts from; the shaders' `START_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Start {
    #[default]
    Zero = 0,
    Given = 1,
    InPlace = 2,
}

/// What else a stage is compiled for, decided when tensors are bound: code for states that
/// nobody has would cost a software driver as much to compile as all the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    pub(crate) start: Start,
    pub(crate) write_end: bool,
}

impl Variant {
    pub(crate) const COUNT: usize = 6;

    /// A number below [`Variant::COUNT`], another for each.
    pub(crate) fn index(self) -> usize {
        2 * self.start as usize + usize::from(self.write_end)
    }
}

const COMMON: &str = include_str!("../shaders/common.wgsl");
const TENSORS_X1: &str = include_str!("../shaders/tensors_x1.wgsl");
const TENSORS_X4: &str = include_str!("../shaders/tensors_x4.wgsl");

/// What the stages of a layout share.
const WORKGROUP: [&str; 2] = [
    include_str!("../shaders/workgroup/tile.wgsl"),
    include_str!("../shaders/workgroup/chunk.wgsl"),
];
const THREAD: [&str; 2] =
    [include_str!("../shaders/thread/tile.wgsl"), include_str!("../shaders/thread/step.wgsl")];

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

    fn file(self, layout: Layout) -> &'static str {
        match (self, layout) {
            (Self::StateScan, _) => include_str!("../shaders/state_scan.wgsl"),
            (Self::SegmentState, Layout::Workgroup { .. }) => {
                include_str!("../shaders/workgroup/segment_state.wgsl")
            }
            (Self::SegmentState, Layout::Thread { .. }) => {
                include_str!("../shaders/thread/segment_state.wgsl")
            }
            (Self::SegmentOutput, Layout::Workgroup { .. }) => {
                include_str!("../shaders/workgroup/segment_output.wgsl")
            }
            (Self::SegmentOutput, Layout::Thread { .. }) => {
                include_str!("../shaders/thread/segment_output.wgsl")
            }
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

    /// The whole WGSL module of the stage: its file, then what its layout shares, how
    /// tensors are read, and what all stages share, one after the other and nothing replaced.
    #[must_use]
    pub fn wgsl(self, config: &Config, layout: Layout) -> Cow<'static, str> {
        let tensors = if config.is_quads() { TENSORS_X4 } else { TENSORS_X1 };
        let mut files = vec![self.file(layout)];
        match (self, layout) {
            // It goes through states element by element, whoever holds mu.
            (Self::StateScan, _) => {}
            (_, Layout::Workgroup { .. }) => files.extend(WORKGROUP),
            (_, Layout::Thread { .. }) => files.extend(THREAD),
        }
        files.extend([tensors, COMMON]);
        Cow::Owned(files.join("\n"))
    }

    /// The values of the module's overrides: the one list there is.
    pub(crate) fn overrides(
        self,
        config: &Config,
        layout: Layout,
        variant: Variant,
    ) -> Vec<(&'static str, f64)> {
        let eps = config.normalization.eps();
        let mut overrides = vec![
            ("KEY_DIM", config.key_dim.into()),
            ("VALUE_DIM", config.value_dim.into()),
            ("FEATURE_MAP", config.feature_map.code().into()),
            ("NORMALIZE", f64::from(u8::from(eps.is_some()))),
            ("SCALE", config.scale.into()),
            ("EPS", eps.unwrap_or(0.0).into()),
            ("START", f64::from(variant.start as u8)),
            ("WRITE_END", f64::from(u8::from(variant.write_end))),
        ];
        match (self, layout) {
            (Self::StateScan, _) => overrides.push(("SCAN_THREADS", SCAN_THREADS.into())),
            (_, Layout::Workgroup { column_threads, chunk_tokens, chunk_queries }) => {
                overrides.extend([
                    ("FEATURE_THREADS", feature_threads(config).into()),
                    ("COLUMN_THREADS", column_threads.into()),
                    ("CHUNK_TOKENS", chunk_tokens.into()),
                    ("CHUNK_QUERIES", chunk_queries.into()),
                ]);
            }
            (_, Layout::Thread { value_quads, threads }) => {
                overrides.extend([("TILE_QUADS", value_quads.into()), ("THREADS", threads.into())]);
            }
        }
        overrides
    }
}

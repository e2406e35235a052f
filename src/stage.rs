//! The stages, in order, each with its WGSL text, entry point and bindings.

use std::borrow::Cow;

use crate::layout::{SCAN_THREADS, decode_places, feature_threads};
use crate::{Config, Dtype, Layout};

/// A dispatch of the pipeline. Its name is the name of its shader file, entry point, mirror
/// (`reference::chunked`; `decode_step` has that of `segment_output`), GPU label, test trial and
/// bench row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// From the caller's lengths and slots a checked table of the sequences.
    SequenceTable,
    /// What each segment adds to the state.
    SegmentState,
    /// From that what each segment starts from.
    StateScan,
    /// The outputs of each segment.
    SegmentOutput,
    /// The outputs of sequences of a few tokens, each state updated where it lies.
    DecodeStep,
}

/// A tensor as the shaders bind it; the number is its binding in every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Binding {
    Params = 0,
    Q = 1,
    K = 2,
    V = 3,
    O = 4,
    Start = 5,
    End = 6,
    Table = 7,
    Sequences = 8,
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
    pub(crate) starts_in_scratch: bool,
    pub(crate) write_end: bool,
    pub(crate) lengths_given: bool,
    pub(crate) slots_given: bool,
    /// Whether entries were checked by nobody, so that one may contradict another.
    pub(crate) may_clash: bool,
    /// Whether a key/value head may have more than one query row in `decode_step`.
    pub(crate) run: bool,
}

impl Variant {
    pub(crate) const COUNT: usize = 192;

    /// A number below [`Variant::COUNT`], another for each.
    pub(crate) fn index(self) -> usize {
        let flags = [
            self.starts_in_scratch,
            self.write_end,
            self.lengths_given,
            self.slots_given,
            self.may_clash,
            self.run,
        ];
        flags.into_iter().fold(self.start as usize, |index, flag| 2 * index + usize::from(flag))
    }
}

const COMMON: &str = include_str!("../shaders/common.wgsl");
/// How q, k, v and o are read and written: by dtype, and by whether K and V are fours.
const ROWS_F32_X1: &str = include_str!("../shaders/rows_f32_x1.wgsl");
const ROWS_F32_X4: &str = include_str!("../shaders/rows_f32_x4.wgsl");
const ROWS_HALF_X1: &str = include_str!("../shaders/rows_half_x1.wgsl");
const ROWS_HALF_X4: &str = include_str!("../shaders/rows_half_x4.wgsl");
const HALF: &str = include_str!("../shaders/half.wgsl");
const STATES_X1: &str = include_str!("../shaders/states_x1.wgsl");
const STATES_X4: &str = include_str!("../shaders/states_x4.wgsl");
const PLACE: &str = include_str!("../shaders/place.wgsl");
const SEQUENCES: &str = include_str!("../shaders/sequences.wgsl");

impl Stage {
    /// Every stage, in the order of a pass.
    pub const ALL: [Stage; 5] = [
        Self::SequenceTable,
        Self::SegmentState,
        Self::StateScan,
        Self::SegmentOutput,
        Self::DecodeStep,
    ];

    /// The stage's one name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SequenceTable => "sequence_table",
            Self::SegmentState => "segment_state",
            Self::StateScan => "state_scan",
            Self::SegmentOutput => "segment_output",
            Self::DecodeStep => "decode_step",
        }
    }

    /// The label of its pipeline and bind groups.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::SequenceTable => "linear_attention.sequence_table",
            Self::SegmentState => "linear_attention.segment_state",
            Self::StateScan => "linear_attention.state_scan",
            Self::SegmentOutput => "linear_attention.segment_output",
            Self::DecodeStep => "linear_attention.decode_step",
        }
    }

    /// The stage's file, then what it shares with others of its layout.
    fn files(self, layout: Layout) -> &'static [&'static str] {
        macro_rules! files {
            ($($name:literal),*) => { &[$(include_str!(concat!("../shaders/", $name, ".wgsl"))),*] };
        }
        match (self, layout) {
            (Self::SequenceTable, _) => files!("sequence_table"),
            // It goes through states element by element, whoever holds mu.
            (Self::StateScan, _) => files!("state_scan"),
            (Self::SegmentState, Layout::Workgroup { .. }) => {
                files!(
                    "workgroup/segment_state",
                    "workgroup/tile",
                    "workgroup/chunk",
                    "workgroup/place"
                )
            }
            (Self::SegmentOutput, Layout::Workgroup { .. }) => files!(
                "workgroup/segment_output",
                "workgroup/outputs",
                "workgroup/tile",
                "workgroup/chunk",
                "workgroup/place"
            ),
            (Self::DecodeStep, Layout::Workgroup { .. }) => {
                files!(
                    "workgroup/decode_step",
                    "workgroup/outputs",
                    "workgroup/tile",
                    "workgroup/chunk"
                )
            }
            (Self::SegmentState, Layout::Thread { .. }) => {
                files!("thread/segment_state", "thread/tile", "thread/step", "thread/place")
            }
            (Self::SegmentOutput, Layout::Thread { .. }) => {
                files!("thread/segment_output", "thread/tile", "thread/step", "thread/place")
            }
            (Self::DecodeStep, Layout::Thread { .. }) => files!("thread/decode_step"),
        }
    }

    pub(crate) fn bindings(self) -> &'static [Binding] {
        use Binding::{End, K, O, Params, Q, Sequences, Start, Table, V};
        match self {
            Self::SequenceTable => &[Params, Table, Sequences],
            Self::SegmentState => &[Params, K, V, End, Table],
            Self::StateScan => &[Params, Start, End, Table],
            Self::SegmentOutput => &[Params, Q, K, V, O, Start, End, Table],
            Self::DecodeStep => &[Params, Q, K, V, O, Start, End, Sequences],
        }
    }

    /// The whole WGSL module of the stage: its file, then what its layout shares, how tensors
    /// are read, and what all stages share, one after the other and nothing replaced.
    #[must_use]
    pub fn wgsl(self, config: &Config, layout: Layout) -> Cow<'static, str> {
        let mut files = self.files(layout).to_vec();
        let bindings = self.bindings();
        if bindings.contains(&Binding::Table) {
            files.push(PLACE);
        }
        if bindings.contains(&Binding::Sequences) {
            files.push(SEQUENCES);
        }
        if self.reads_rows() {
            files.push(match (config.is_quads(), config.dtype) {
                (true, Dtype::F32) => ROWS_F32_X4,
                (false, Dtype::F32) => ROWS_F32_X1,
                (true, Dtype::F16 | Dtype::Bf16) => ROWS_HALF_X4,
                (false, Dtype::F16 | Dtype::Bf16) => ROWS_HALF_X1,
            });
            if config.dtype != Dtype::F32 {
                files.push(HALF);
            }
        }
        files.push(if config.is_quads() { STATES_X4 } else { STATES_X1 });
        files.push(COMMON);
        Cow::Owned(files.join("\n"))
    }

    /// Whether it reads q, k or v.
    fn reads_rows(self) -> bool {
        self.bindings().contains(&Binding::K)
    }

    /// The values of the module's overrides: the one list there is.
    pub(crate) fn overrides(
        self,
        config: &Config,
        layout: Layout,
        variant: Variant,
    ) -> Vec<(&'static str, f64)> {
        let eps = config.normalization.eps();
        let flag = |is_on: bool| f64::from(u8::from(is_on));
        let mut overrides = vec![
            ("KEY_DIM", config.key_dim.into()),
            ("VALUE_DIM", config.value_dim.into()),
            ("FEATURE_MAP", config.feature_map.code().into()),
            ("NORMALIZE", flag(eps.is_some())),
            ("SCALE", config.scale.into()),
            ("EPS", eps.unwrap_or(0.0).into()),
            ("START", f64::from(variant.start as u8)),
            ("STARTS_IN_SCRATCH", flag(variant.starts_in_scratch)),
            ("WRITE_END", flag(variant.write_end)),
            ("LENGTHS_GIVEN", flag(variant.lengths_given)),
            ("SLOTS_GIVEN", flag(variant.slots_given)),
            ("MAY_CLASH", flag(variant.may_clash)),
        ];
        if self.reads_rows() && config.dtype != Dtype::F32 {
            overrides.push(("DTYPE", config.dtype.code().into()));
        }
        match (self, layout) {
            (Self::SequenceTable | Self::StateScan, _) => {
                overrides.push(("SCAN_THREADS", SCAN_THREADS.into()));
            }
            (Self::DecodeStep, Layout::Thread { .. }) => overrides.extend([
                ("PLACES", decode_places(config, layout).into()),
                ("RUN", flag(variant.run)),
            ]),
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

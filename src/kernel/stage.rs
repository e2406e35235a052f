//! The stages, in order, each with its WGSL text, entry point and bindings.

use std::borrow::Cow;

use crate::kernel::layout::{Layout, SCAN_THREADS, decode_places, feature_blocks, feature_threads};
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;
use crate::shaders::{self, PHI};

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
    /// The outputs of each segment; where F falls into several blocks, the share of each.
    SegmentOutput,
    /// From those shares the outputs.
    OutputSum,
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
    Weights = 9,
    Shares = 10,
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

impl Stage {
    /// Every stage, in the order of a pass.
    pub const ALL: [Stage; 6] = [
        Self::SequenceTable,
        Self::SegmentState,
        Self::StateScan,
        Self::SegmentOutput,
        Self::OutputSum,
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
            Self::OutputSum => "output_sum",
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
            Self::OutputSum => "linear_attention.output_sum",
            Self::DecodeStep => "linear_attention.decode_step",
        }
    }

    /// The stage's file, then what it shares with others of its layout.
    fn files(self, config: &Config, layout: Layout) -> Vec<&'static str> {
        macro_rules! files {
            ($($name:literal),*) => { vec![$(shaders::text($name)),*] };
        }
        let mut files = match (self, layout) {
            (Self::SequenceTable, _) => files!("sequence_table"),
            // They go through states and outputs element by element, whoever holds mu.
            (Self::StateScan, _) => files!("state_scan"),
            (Self::OutputSum, _) => files!("output_sum"),
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
        };
        if let (true, Layout::Workgroup { .. }) = (self.reads_rows(), layout) {
            files.extend(match is_mapped(config) {
                true => files!("workgroup/mapped", "workgroup/maps"),
                false => files!("workgroup/direct"),
            });
            if matches!(self, Self::SegmentOutput | Self::DecodeStep) {
                files.extend(match feature_blocks(config) {
                    1 => files!("workgroup/leave_outputs"),
                    _ => files!("workgroup/leave_shares"),
                });
            }
        }
        files
    }

    /// Whether it maps rows of q or k, and needs all of a row for it.
    fn maps_rows(self, config: &Config, layout: Layout) -> bool {
        self.reads_rows() && is_mapped(config) && matches!(layout, Layout::Workgroup { .. })
    }

    pub(crate) fn bindings(self, config: &Config, layout: Layout) -> Vec<Binding> {
        use Binding::{End, K, O, Params, Q, Sequences, Shares, Start, Table, V, Weights};
        let mut bindings = match self {
            Self::SequenceTable => vec![Params, Table, Sequences],
            Self::SegmentState => vec![Params, K, V, End, Table],
            Self::StateScan => vec![Params, Start, End, Table],
            Self::SegmentOutput => vec![Params, Q, K, V, O, Start, End, Table],
            Self::OutputSum => vec![Params, O, Table, Shares],
            Self::DecodeStep => vec![Params, Q, K, V, O, Start, End, Sequences],
        };
        if self.maps_rows(config, layout) {
            bindings.push(Weights);
        }
        if self == Self::SegmentOutput && feature_blocks(config) > 1 {
            bindings.retain(|binding| *binding != O);
            bindings.push(Shares);
        }
        bindings
    }

    /// The whole WGSL module of the stage: its file, then what its layout shares, how tensors
    /// are read, and what all stages share, one after the other and nothing replaced.
    #[must_use]
    pub fn wgsl(self, config: &Config, layout: Layout) -> Cow<'static, str> {
        let phi = config.custom_maps().next().map_or(PHI, |map| map.wgsl());
        Cow::Owned(self.module(config, layout, phi))
    }

    fn module(self, config: &Config, layout: Layout, phi: &str) -> String {
        let mut files: Vec<&str> = Vec::new();
        if self.maps_rows(config, layout) {
            // First, so that what a compiler has to say of it names its own lines.
            files.push(phi);
        }
        files.extend(self.files(config, layout));
        if self != Self::DecodeStep {
            files.push(shaders::text("place"));
        }
        if matches!(self, Self::SequenceTable | Self::DecodeStep) {
            files.push(shaders::text("sequences"));
        }
        if self.reads_rows() || self == Self::OutputSum {
            files.push(match (config.is_quads(), config.dtype) {
                (true, Dtype::F32) => shaders::text("rows_f32_x4"),
                (false, Dtype::F32) => shaders::text("rows_f32_x1"),
                (true, Dtype::F16 | Dtype::Bf16) => shaders::text("rows_half_x4"),
                (false, Dtype::F16 | Dtype::Bf16) => shaders::text("rows_half_x1"),
            });
            if config.dtype != Dtype::F32 {
                files.push(shaders::text("half"));
            }
        }
        files.push(if config.is_quads() {
            shaders::text("states_x4")
        } else {
            shaders::text("states_x1")
        });
        files.push(shaders::text("common"));
        files.join("\n")
    }

    /// Whether it reads q, k or v.
    fn reads_rows(self) -> bool {
        matches!(self, Self::SegmentState | Self::SegmentOutput | Self::DecodeStep)
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
            ("FEATURE_DIM", config.features().into()),
            ("FEATURE_BLOCKS", feature_blocks(config).into()),
            ("KEY_MAP", config.key_map().code().into()),
            ("QUERY_MAP", config.query_map().code().into()),
            ("NORMALIZE", flag(eps.is_some())),
            ("SCALE", config.scale.into()),
            ("EPS", eps.unwrap_or(0.0).into()),
            ("LOG_EPS", eps.unwrap_or(0.0).ln().max(f32::MIN).into()),
            ("START", f64::from(variant.start as u8)),
            ("STARTS_IN_SCRATCH", flag(variant.starts_in_scratch)),
            ("WRITE_END", flag(variant.write_end)),
            ("LENGTHS_GIVEN", flag(variant.lengths_given)),
            ("SLOTS_GIVEN", flag(variant.slots_given)),
            ("MAY_CLASH", flag(variant.may_clash)),
        ];
        if (self.reads_rows() || self == Self::OutputSum) && config.dtype != Dtype::F32 {
            overrides.push(("DTYPE", config.dtype.code().into()));
        }
        match (self, layout) {
            (Self::SequenceTable | Self::StateScan | Self::OutputSum, _) => {
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
                if is_mapped(config) {
                    overrides.push(("CHUNK_ROWS", (chunk_tokens + chunk_queries).into()));
                    overrides.extend(mapped_overrides(config));
                }
            }
            (_, Layout::Thread { value_quads, threads }) => {
                overrides.extend([("TILE_QUADS", value_quads.into()), ("THREADS", threads.into())]);
            }
        }
        overrides
    }
}

/// What `workgroup/mapped.wgsl` wants to know.
fn mapped_overrides(config: &Config) -> Vec<(&'static str, f64)> {
    let f32 = |x: f64| f64::from(x as f32);
    let (keys, queries) = (config.key_map(), config.query_map());
    let kept = [keys, queries].map(|map| map.kept_projections(config.key_dim));
    let row = |map: &FeatureMap| map.matrices() * map.matrix_rows(config.key_dim).div_ceil(4);
    vec![
        ("L2_NORM", f64::from(u8::from(config.l2_norm))),
        ("ROOT_SCALE", f32(f64::from(config.key_dim).powf(-0.25))),
        ("FEATURE_SCALE", f32(f64::from(config.features()).powf(-0.5))),
        ("KEY_KEPT_QUADS", kept[0].into()),
        ("QUERY_KEPT_QUADS", kept[1].into()),
        ("KEPT_QUADS", kept[0].max(kept[1]).into()),
        ("KEY_WEIGHT_QUADS", row(keys).into()),
        ("QUERY_WEIGHT_QUADS", row(queries).into()),
    ]
}

/// Whether a feature is a function of more than the number at its place.
pub(crate) fn is_mapped(config: &Config) -> bool {
    !config.is_element_wise() || *config.query_map() == FeatureMap::Exp
}

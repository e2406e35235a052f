//! The table of kernels of the backward pass.

mod sizes;

use crate::error::ConfigError;
use crate::kernel::assembler::{Module, Number, Numbers, Parts, Unbound};
use crate::kernel::layout::Layout;
use crate::kernel::numbers::{Variant, numbers};
use crate::kernel::stage::Stage;
use crate::problem::config::Config;
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;

pub(crate) use sizes::*;

/// A dispatch of a backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum GradientStage {
    /// The decays and betas of all tokens, as in a forward pass.
    TokenGates,
    /// The projections of all rows, where a map has weights.
    Projections,
    /// The features of all rows.
    Features,
    /// The decays that the passes of sums take.
    PassDecays,
    /// The values and states that they take.
    PassInputs,
    /// What a delta rule adds to the state in each token, but for beta.
    Corrections,
    /// The rows of gradients by o that they take.
    OutputRows,
    /// The gradients by what a delta rule adds, from the last token to the first.
    CorrectionsReversed,
    /// The rows of both that the passes take, and the gradients by betas.
    CorrectionRows,
    /// The gradients by decays per head, from what the passes of sums have found.
    Decays,
    /// The sums of gradients by features of keys over the queries that share a value head.
    GroupSums,
    /// The gradients by values and states, from what the passes of sums have found.
    PassOutputs,
    /// The gradients by features, values, gates and states, token by token.
    Recurrence,
    /// The sums of those by features and gates over blocks of columns, where heads are too few to
    /// fill the device and several workgroups share one.
    ColumnSums,
    /// Those by projections, where a map has weights.
    Maps,
    /// Those by rows of q and k.
    Rows,
    /// Those by decays and betas as they are given.
    Gates,
    /// Those by the weights of maps, over a piece of the tokens.
    Weights,
    /// Those by the weights of maps.
    WeightSums,
}

/// The way in which the shaders reach rows of q, k and v.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct RowAccess {
    /// True if the first token of a row of the batch does not follow the last of the row before.
    pub(crate) has_batch_strides: bool,
    /// True if rows begin at any element, whatever their widths are.
    pub(crate) has_unaligned_rows: bool,
    /// True if q, k and v may be one another's memory, which only bindings that are read may be.
    pub(crate) reads_only: bool,
}

/// A tensor of the backward pass; the number is its binding in every stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum GradientBinding {
    Params = 0,
    Q = 1,
    K = 2,
    V = 3,
    PassValues = 4,
    OutputRows = 5,
    OfPassValues = 6,
    OfPassKeys = 7,
    Blocks = 8,
    Weights = 9,
    Projections = 10,
    Gates = 11,
    Decay = 12,
    Beta = 13,
    GateWeights = 14,
    Partials = 15,
    OfWeights = 16,
    PassStates = 17,
    Keys = 18,
    Queries = 19,
    OfO = 20,
    OfV = 21,
    States = 22,
    Ranges = 23,
    OfQ = 24,
    OfK = 25,
    OfDecay = 26,
    OfBeta = 27,
    OfGateWeights = 28,
    InitialState = 29,
    OfFinalState = 30,
    OfInitialState = 31,
    PassDecays = 32,
    SegmentStates = 33,
}

impl GradientBinding {
    /// The states, which a call may leave out.
    pub(crate) const STATES: [Self; 3] =
        [Self::InitialState, Self::OfFinalState, Self::OfInitialState];
}

impl GradientStage {
    /// Every stage, in the order of a pass.
    pub const ALL: [Self; 19] = [
        Self::TokenGates,
        Self::Projections,
        Self::Features,
        Self::PassDecays,
        Self::PassInputs,
        Self::Corrections,
        Self::OutputRows,
        Self::CorrectionsReversed,
        Self::CorrectionRows,
        Self::Decays,
        Self::GroupSums,
        Self::PassOutputs,
        Self::Recurrence,
        Self::ColumnSums,
        Self::Maps,
        Self::Rows,
        Self::Gates,
        Self::Weights,
        Self::WeightSums,
    ];

    /// Its one name: of its shader file and entry point.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TokenGates => "token_gates",
            Self::Projections => "gradient_projections",
            Self::Features => "gradient_features",
            Self::PassDecays => "gradient_pass_decays",
            Self::PassInputs => "gradient_pass_inputs",
            Self::Corrections => "gradient_corrections",
            Self::OutputRows => "gradient_output_rows",
            Self::CorrectionsReversed => "gradient_corrections_reversed",
            Self::CorrectionRows => "gradient_correction_rows",
            Self::Decays => "gradient_decays",
            Self::GroupSums => "gradient_group_sums",
            Self::PassOutputs => "gradient_pass_outputs",
            Self::Recurrence => "gradient_recurrence",
            Self::ColumnSums => "gradient_column_sums",
            Self::Maps => "gradient_maps",
            Self::Rows => "gradient_rows",
            Self::Gates => "gradient_gates",
            Self::Weights => "gradient_weights",
            Self::WeightSums => "gradient_weight_sums",
        }
    }

    /// The WGSL module that it is compiled from, `None` where a backward pass of the config has no
    /// such stage. For tools that look at shaders.
    ///
    /// # Errors
    ///
    /// A config out of range.
    pub fn wgsl(self, config: &Config) -> Result<Option<String>, ConfigError> {
        config.validate()?;
        let is_there = self.is_in(config) && map_without_derivative(config).is_none();
        let module =
            is_there.then(|| self.module(config, Layout::for_cpu(config), RowAccess::default()));
        Ok(module.map(|module| module.wgsl))
    }

    /// The label of its GPU objects.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::TokenGates => "linear_attention.token_gates",
            Self::Projections => "linear_attention.gradient_projections",
            Self::Features => "linear_attention.gradient_features",
            Self::PassDecays => "linear_attention.gradient_pass_decays",
            Self::PassInputs => "linear_attention.gradient_pass_inputs",
            Self::Corrections => "linear_attention.gradient_corrections",
            Self::OutputRows => "linear_attention.gradient_output_rows",
            Self::CorrectionsReversed => "linear_attention.gradient_corrections_reversed",
            Self::CorrectionRows => "linear_attention.gradient_correction_rows",
            Self::Decays => "linear_attention.gradient_decays",
            Self::GroupSums => "linear_attention.gradient_group_sums",
            Self::PassOutputs => "linear_attention.gradient_pass_outputs",
            Self::Recurrence => "linear_attention.gradient_recurrence",
            Self::ColumnSums => "linear_attention.gradient_column_sums",
            Self::Maps => "linear_attention.gradient_maps",
            Self::Rows => "linear_attention.gradient_rows",
            Self::Gates => "linear_attention.gradient_gates",
            Self::Weights => "linear_attention.gradient_weights",
            Self::WeightSums => "linear_attention.gradient_weight_sums",
        }
    }

    /// True where a backward pass of the config has it.
    pub(crate) fn is_in(self, config: &Config) -> bool {
        let has_beta = config.update_rule.beta().is_some();
        match self {
            Self::TokenGates | Self::Gates => config.gates().is_some(),
            Self::Projections | Self::Maps => config.needs_weights(),
            Self::Features | Self::Recurrence | Self::Rows => true,
            Self::ColumnSums => config.value_dim > gradient_columns(config),
            Self::PassDecays => has_sums(config) && config.gates().is_some(),
            Self::Decays => has_sums(config) && config.update_rule.decay().is_some(),
            _ if self.is_of_corrections() => has_sums(config) && has_beta,
            _ if self.is_of_sums() => has_sums(config),
            _ => self.is_of_weights() && config.needs_weights(),
        }
    }

    /// True for the stages that serve nothing but the gradients by weights.
    pub(crate) fn is_of_weights(self) -> bool {
        matches!(self, Self::Weights | Self::WeightSums)
    }

    /// True for the stages of the recipe `sums` that delta rules alone have.
    pub(crate) fn is_of_corrections(self) -> bool {
        matches!(self, Self::Corrections | Self::CorrectionsReversed | Self::CorrectionRows)
    }

    /// True for the stages of the recipe `sums` alone.
    pub(crate) fn is_of_sums(self) -> bool {
        use GradientStage::{Decays, GroupSums, OutputRows, PassDecays, PassInputs, PassOutputs};
        let of_rows = matches!(self, PassInputs | OutputRows | GroupSums | PassOutputs);
        of_rows || matches!(self, PassDecays | Decays) || self.is_of_corrections()
    }

    /// True for the stages of the recurrence alone.
    pub(crate) fn is_of_recurrence(self) -> bool {
        matches!(self, Self::TokenGates | Self::Recurrence | Self::ColumnSums)
    }

    /// True for stages behind those that compute the gradients by features.
    pub(crate) fn reads_gradients(self) -> bool {
        matches!(self, Self::Maps | Self::Rows)
    }

    /// True if it reads or writes rows of q, k, v or o.
    pub(crate) fn has_rows(self) -> bool {
        use GradientBinding::{OfO, OfV, Q, V};
        self.all_binds().iter().any(|binding| matches!(binding, Q | V | OfO | OfV))
    }

    /// The tensors that it binds.
    pub(crate) fn binds(self, config: &Config) -> Vec<GradientBinding> {
        use GradientBinding::*;
        let mut binds = self.all_binds().to_vec();
        let rule = config.update_rule;
        binds.retain(|binding| match binding {
            Gates | PassDecays if self == Self::GroupSums => rule.beta().is_some(),
            Gates => config.gates().is_some(),
            Decay | OfDecay => rule.decay().is_some(),
            Beta | OfBeta => rule.beta().is_some(),
            GateWeights | OfGateWeights => rule.needs_gate_weights(),
            Projections | Weights => config.needs_weights(),
            PassDecays => config.gates().is_some(),
            // The first token of a sequence, whose decay is between it and the initial state.
            Ranges if self == Self::PassOutputs => config.gates().is_some(),
            // With projections, the gradients by them take the place of those by features.
            Keys | Queries if self == Self::Rows => !config.needs_weights(),
            _ => true,
        });
        binds
    }

    fn all_binds(self) -> &'static [GradientBinding] {
        use GradientBinding::*;
        match self {
            Self::TokenGates => &[Params, Gates, Decay, Beta, GateWeights],
            Self::Projections => &[Params, Q, K, Weights, Projections],
            Self::Features => {
                &[Params, Q, K, Projections, Keys, Queries, States, InitialState, OfFinalState]
            }
            Self::PassInputs => {
                &[Params, V, States, Ranges, PassValues, PassStates, OfPassValues, OfPassKeys]
            }
            Self::PassDecays => &[Params, Decay, Beta, GateWeights, Ranges, PassDecays],
            Self::Corrections => &[Params, Keys, PassValues, PassDecays, PassStates, Ranges],
            Self::OutputRows => &[Params, Queries, OfO, OutputRows],
            Self::CorrectionsReversed => {
                &[Params, Keys, Queries, OutputRows, OfPassValues, PassDecays, PassStates, Ranges]
            }
            Self::CorrectionRows => {
                &[Params, Gates, PassValues, OutputRows, OfPassValues, PassDecays, Ranges]
            }
            Self::Decays => &[
                Params,
                Gates,
                Keys,
                Queries,
                PassValues,
                OutputRows,
                PassDecays,
                SegmentStates,
                Blocks,
            ],
            Self::GroupSums => &[Params, Gates, Keys, OfPassKeys, PassDecays],
            Self::PassOutputs => {
                &[Params, OfV, States, PassStates, OfPassValues, PassDecays, Ranges]
            }
            Self::Recurrence => &[Params, V, Gates, Keys, Queries, OfO, OfV, States, Ranges],
            Self::ColumnSums => &[Params, Gates, Keys, Queries, States],
            Self::Maps => &[Params, Q, K, Projections, Keys, Queries],
            Self::Rows => &[
                Params,
                Q,
                K,
                Weights,
                Projections,
                Keys,
                Queries,
                States,
                OfQ,
                OfK,
                OfInitialState,
            ],
            Self::Gates => {
                &[Params, Gates, Decay, Beta, GateWeights, OfDecay, OfBeta, OfGateWeights]
            }
            Self::Weights => &[Params, Q, K, Projections, Partials],
            Self::WeightSums => &[Params, Partials, OfWeights],
        }
    }

    /// The module of the stage. A tensor that the config does not have is a private variable of it.
    pub(crate) fn module(self, config: &Config, layout: Layout, access: RowAccess) -> Module {
        let is_vec4 = config.is_vec4() && !access.has_unaligned_rows;
        let binds = self.binds(config);
        let missing = self.all_binds().iter().filter(|binding| !binds.contains(binding));
        let is_single = |map: &FeatureMap| {
            use FeatureMap::{Dpfp, Hedgehog, HedgehogJoint, Taylor};
            matches!(map, Hedgehog | HedgehogJoint | Taylor | Dpfp { .. })
        };
        // Code that no map needs would take CPU adapters longer to compile than all the rest.
        let has_singles = [config.key_map(), config.query_map()].into_iter().any(is_single);
        let interfaces = [
            (
                "single_features",
                if has_singles { "gradient/singles" } else { "gradient/no_singles" },
            ),
            (
                "single_slopes",
                if has_singles { "gradient/single_slopes" } else { "gradient/no_single_slopes" },
            ),
            (
                "rows",
                match (is_vec4, config.dtype) {
                    (true, Dtype::F32) => "rows/f32_x4",
                    (false, Dtype::F32) => "rows/f32_x1",
                    (true, Dtype::F16 | Dtype::Bf16) => "rows/half_x4",
                    (false, Dtype::F16 | Dtype::Bf16) => "rows/half_x1",
                },
            ),
            ("stored_decay", "gates/backward_decay"),
            (
                "row_gradient",
                match config.needs_weights() {
                    true => "gradient/from_projections",
                    false => "gradient/from_features",
                },
            ),
        ];
        let RowAccess { has_batch_strides, has_unaligned_rows, reads_only } = access;
        let variant = Variant { has_batch_strides, has_unaligned_rows, ..Variant::default() };
        let mut numbers: Numbers = numbers(Stage::SegmentOutput, config, layout, variant);
        numbers.push(("ACCESS_ELEMENTS", Number::U32(if is_vec4 { 4 } else { 1 })));
        numbers.push(("GRADIENT_THREADS", Number::U32(gradient_threads(config))));
        numbers.push(("GRADIENT_COLUMNS", Number::U32(gradient_columns(config))));
        numbers.push(("DECAY_BLOCK", Number::U32(DECAY_BLOCK)));
        numbers.push(("DECAY_STRIP", Number::U32(DECAY_STRIP)));
        numbers.push(("DECAY_LANES", Number::U32(decay_lanes(config))));
        let corrections = CorrectionSizes::new(config);
        numbers.push(("CORRECTION_COLUMNS", Number::U32(corrections.columns)));
        numbers.push(("CORRECTION_LANES", Number::U32(corrections.lanes)));
        numbers.push(("CORRECTION_ROWS", Number::U32(corrections.rows)));
        numbers.push(("CORRECTION_VEC4", Number::U32(corrections.vec4s(config))));
        let unbound = Unbound::new(missing.map(|binding| *binding as u32));
        let root = self.name();
        let numbers = &numbers;
        let parts = Parts { root, interfaces: &interfaces, custom_map: None, numbers, unbound };
        let mut module = parts.assemble();
        if reads_only {
            module.read_only(&["q", "k", "v"]);
        }
        module
    }
}

/// The first map of a config that has no derivative: a caller's own.
pub(crate) fn map_without_derivative(config: &Config) -> Option<&FeatureMap> {
    let mut maps = [config.key_map(), config.query_map()].into_iter();
    maps.find(|map| matches!(map, FeatureMap::Custom(_)))
}

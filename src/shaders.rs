//! The texts of `shaders/`, by the name of the file without its ending.

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        /// Every file.
        pub(crate) const FILES: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../shaders/", $name, ".wgsl")))),*];
    };
}

files![
    "chunk/direct",
    "chunk/direct_decode",
    "chunk/element_wise",
    "chunk/features",
    "chunk/loaded_rows",
    "chunk/row_wise",
    "chunk/weights",
    "chunk/workgroup",
    "correction/chunk",
    "correction/kept_head",
    "correction/kept_rows",
    "correction/none",
    "decode/corrected_values",
    "decode/direct",
    "decode/item",
    "decode/values",
    "decode/workgroup",
    "decode_step",
    "factor/head",
    "factor/none",
    "gates/activations",
    "gates/backward_decay",
    "gates/forward_decay",
    "gates/head",
    "gates/none",
    "gates/row",
    "gates/segment_head",
    "gates/segment_none",
    "gates/segment_row",
    "gradient/argument",
    "gradient/corrections",
    "gradient/from_features",
    "gradient/from_projections",
    "gradient/item",
    "gradient/map",
    "gradient/no_single_slopes",
    "gradient/no_singles",
    "gradient/partials",
    "gradient/pass_decays",
    "gradient/passes",
    "gradient/sequence",
    "gradient/single_slopes",
    "gradient/singles",
    "gradient/slopes",
    "gradient/states",
    "gradient/weights",
    "gradient_column_sums",
    "gradient_correction_rows",
    "gradient_corrections",
    "gradient_corrections_reversed",
    "gradient_decays",
    "gradient_features",
    "gradient_gates",
    "gradient_group_sums",
    "gradient_maps",
    "gradient_output_rows",
    "gradient_pass_decays",
    "gradient_pass_inputs",
    "gradient_pass_outputs",
    "gradient_projections",
    "gradient_recurrence",
    "gradient_rows",
    "gradient_weight_sums",
    "gradient_weights",
    "heads",
    "lane",
    "lane/subgroup",
    "lane_sums/memory",
    "lane_sums/subgroup",
    "map/custom_prelude",
    "map/formulas",
    "map/no_custom",
    "map/pairs",
    "map/row",
    "map/sine",
    "map/stabiliser",
    "matrix/chunk",
    "matrix/corrected",
    "matrix/decayed",
    "matrix/item",
    "matrix/norms",
    "matrix/panel",
    "matrix/products",
    "matrix/queries",
    "matrix/scale",
    "matrix/segment_output",
    "matrix/segment_state",
    "matrix/segment_transition",
    "matrix/size_16",
    "matrix/size_8",
    "matrix/state",
    "matrix/uncorrected",
    "matrix/undecayed",
    "normalise",
    "output/partial_rows",
    "output/partials",
    "output/rows",
    "output_sum",
    "params",
    "rows/f16_x4",
    "rows/f32_x1",
    "rows/f32_x4",
    "rows/half",
    "rows/half_x1",
    "rows/half_x4",
    "rule/linear",
    "rule/decay",
    "rule/decay_factor",
    "rule/delta",
    "rule/gated",
    "segment_output",
    "segment_state",
    "segment_transition",
    "sequence_claims",
    "sequence_conflicts",
    "sequence_entry",
    "sequence_table",
    "sequence_words",
    "sequences",
    "state_scan",
    "states/offset",
    "states/x1",
    "states/x4",
    "status/keys",
    "status/none",
    "tile",
    "tile/looped",
    "tile/unrolled",
    "token_gates",
    "transition_scan",
    "unchecked_sequences",
    "work_item",
];

/// The text of a file; empty where there is none, which a test rules out.
pub(crate) fn text(name: &str) -> &'static str {
    FILES.iter().find(|(file, _)| *file == name).map_or("", |(_, text)| text)
}

/// The name that a line declares outside of functions, if it does.
#[cfg(any(test, not(target_arch = "wasm32")))]
pub(crate) fn declared_name(line: &str) -> Option<&str> {
    let keywords = ["fn ", "const ", "override ", "struct ", "alias "];
    let after = keywords.iter().find_map(|keyword| line.strip_prefix(keyword));
    // `var<workgroup> name` and `@group(0) @binding(1) var<storage, read_write> name`.
    let is_variable = line.starts_with("var<") || line.starts_with("@group");
    let after =
        after.or_else(|| line.split_once("> ").filter(|_| is_variable).map(|(_, rest)| rest));
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    after.map(|rest| rest.split(|c| !is_part(c)).next().unwrap_or_default())
}

/// Every name that a module may declare outside of functions, its numbers among them.
#[cfg(any(test, not(target_arch = "wasm32")))]
pub(crate) fn declared_names() -> impl Iterator<Item = &'static str> {
    let texts =
        FILES.iter().filter(|(file, _)| *file != "map/custom_prelude").map(|(_, text)| text);
    let lines = texts.flat_map(|text| text.lines());
    let numbers = lines
        .clone()
        .filter_map(|line| line.strip_prefix("import constants::{")?.strip_suffix("};"));
    lines.filter_map(declared_name).chain(numbers.flat_map(|names| names.split(", ")))
}

//! The WGSL texts, by name.

macro_rules! texts {
    ($($name:literal),* $(,)?) => {
        /// Every text that modules are put together from.
        const TEXTS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../shaders/", $name, ".wgsl")))),*];
    };
}

texts![
    "common",
    "half",
    "output_sum",
    "place",
    "rows_f32_x1",
    "rows_f32_x4",
    "rows_half_x1",
    "rows_half_x4",
    "sequence_table",
    "sequences",
    "state_scan",
    "states_x1",
    "states_x4",
    "thread/decode_step",
    "thread/place",
    "thread/segment_output",
    "thread/segment_state",
    "thread/step",
    "thread/tile",
    "workgroup/chunk",
    "workgroup/decode_step",
    "workgroup/direct",
    "workgroup/leave_outputs",
    "workgroup/leave_shares",
    "workgroup/mapped",
    "workgroup/maps",
    "workgroup/outputs",
    "workgroup/place",
    "workgroup/segment_output",
    "workgroup/segment_state",
    "workgroup/tile",
];

/// Stands for a caller's own map where there is none.
pub(crate) const PHI: &str = include_str!("../shaders/workgroup/phi.wgsl");
/// All that a caller's own map may use, as far as a compiler must know it.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) const PHI_PRELUDE: &str = include_str!("../shaders/workgroup/phi_prelude.wgsl");

/// The text called `name`; empty where there is none, which no test would let pass.
pub(crate) fn text(name: &str) -> &'static str {
    TEXTS.iter().find(|(found, _)| *found == name).map_or("", |(_, text)| text)
}

/// Every name that a shader declares outside of its functions.
#[cfg(not(target_arch = "wasm32"))]
pub(crate) fn declared_names() -> impl Iterator<Item = &'static str> {
    TEXTS.iter().flat_map(|(_, text)| text.lines().filter_map(declared_name))
}

/// The name that a line declares, if it does.
#[cfg(not(target_arch = "wasm32"))]
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

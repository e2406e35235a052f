//! Modules, parsed and validated, each text once.

use std::collections::{BTreeSet, HashMap, HashSet};

use crate::kernel::assembler::Module;

/// The texts of modules that a test has met: under every name a text is the same module.
#[derive(Default)]
pub(super) struct Seen(HashSet<String>);

impl Seen {
    pub(super) fn is_new(&mut self, module: &Module) -> bool {
        !self.0.contains(&module.wgsl) && self.0.insert(module.wgsl.clone())
    }
}

/// What a valid module has.
pub(super) struct Facts {
    pub(super) entry_point: String,
    /// The bindings that the entry point uses.
    pub(super) used: BTreeSet<u32>,
    /// Bindings that are declared.
    pub(super) declared: u32,
    pub(super) overrides: usize,
}

/// Parses and validates each text once.
#[derive(Default)]
pub(super) struct Modules(HashMap<String, Facts>);

impl Modules {
    pub(super) fn facts(&mut self, name: &str, text: &Module) -> &Facts {
        if !self.0.contains_key(&text.wgsl) {
            let module = parse(name, text);
            let info = validate(name, text, &module);
            let uses = info.get_entry_point(0);
            let bindings =
                || module.global_variables.iter().filter_map(|(at, v)| Some((at, v.binding?)));
            let used = bindings().filter(|(at, _)| !uses[*at].is_empty());
            let facts = Facts {
                entry_point: module.entry_points[0].name.clone(),
                used: used.map(|(_, binding)| binding.binding).collect(),
                declared: bindings().count() as u32,
                overrides: module.overrides.len(),
            };
            self.0.insert(text.wgsl.clone(), facts);
        }
        &self.0[&text.wgsl]
    }
}

pub(super) fn has_shuffles(module: &Module) -> bool {
    module.files.contains(&"lane/subgroup")
}

pub(super) fn parse(name: &str, module: &Module) -> naga::Module {
    naga::front::wgsl::parse_str(&module.wgsl).unwrap_or_else(|error| {
        panic!("{name}: {}", module.locate(&error.emit_to_string(&module.wgsl)))
    })
}

pub(super) fn validate(
    name: &str,
    text: &Module,
    module: &naga::Module,
) -> naga::valid::ModuleInfo {
    // Rows of 16 bits are words: whatever a shader adds up or multiplies is f32. Values that are in
    // no variable are refused below, for want of a capability.
    let has_f16 = module.types.iter().any(|(_, ty)| {
        ty.inner
            .scalar()
            .is_some_and(|scalar| scalar.kind == naga::ScalarKind::Float && scalar.width != 4)
    });
    assert!(!has_f16, "{name}");
    // No capability at all, plain WGSL, is what every backend can take. Shuffles are for native
    // ones.
    let flags = naga::valid::ValidationFlags::all();
    let capabilities = match has_shuffles(text) {
        true => naga::valid::Capabilities::SUBGROUP,
        false => naga::valid::Capabilities::empty(),
    };
    naga::valid::Validator::new(flags, capabilities).validate(module).unwrap_or_else(|error| {
        panic!("{name}: {}", text.locate(&error.emit_to_string(&text.wgsl)))
    })
}

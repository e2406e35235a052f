//! The check of a custom map's text, which can reach nothing but the row it is given.

use wgpu::naga;

use crate::error::ConfigError;
use crate::shaders::{self, declared_name, declared_names};

const SIGNATURE: &str = "fn phi(row: Row, feature: u32) -> f32";

/// Checks that the text is a feature map, reaches nothing but the row it is given, and has names of
/// its own.
pub(super) fn check(name: &str, wgsl: &str) -> Result<(), ConfigError> {
    let refused = |message: String| ConfigError::Phi {
        feature_map: name.to_owned(),
        message: message.trim().to_owned(),
    };
    // The map's own text first, so that the lines which errors name are its own.
    let source = format!("{wgsl}\n{}", shaders::text("map/custom_prelude"));
    let parse = |source: &str| {
        naga::front::wgsl::parse_str(source)
            .map_err(|error| refused(error.emit_to_string_with_path(source, name)))
    };
    let module = parse(&source)?;
    let expect = |holds: bool, found: &str| {
        if holds { Ok(()) } else { Err(refused(format!("expected {SIGNATURE}, found {found}"))) }
    };
    let mut functions = module.functions.iter();
    let phi = functions.find(|(_, function)| function.name.as_deref() == Some("phi"));
    expect(phi.is_some(), "no such function")?;
    expect(phi.is_some_and(|(_, phi)| has_signature(&module, phi)), "a function of another type")?;
    let prelude = parse(shaders::text("map/custom_prelude"))?;
    for (what, ours, all) in [
        ("entry point", prelude.entry_points.len(), module.entry_points.len()),
        ("override", prelude.overrides.len(), module.overrides.len()),
        (
            "variable outside a function",
            prelude.global_variables.len(),
            module.global_variables.len(),
        ),
    ] {
        if all > ours {
            return Err(refused(format!("expected no {what}, found {}", all - ours)));
        }
    }
    let validate = |module: &naga::Module, source: &str| {
        let flags = naga::valid::ValidationFlags::all();
        naga::valid::Validator::new(flags, naga::valid::Capabilities::default())
            .validate(module)
            .map_err(|error| refused(error.emit_to_string_with_path(source, name)))
    };
    let info = validate(&module, &source)?;
    for (handle, _) in module.functions.iter() {
        // Not every thread is here for every row.
        if info[handle].available_stages != naga::valid::ShaderStages::all() {
            return Err(refused("expected no barrier and no derivative, found one".to_owned()));
        }
    }
    if makes_a_row(&module) {
        return Err(refused("a Row can be passed on and not made, found one made".to_owned()));
    }
    // Whatever it is put together with, no name may stand for two things.
    let taken: Vec<&str> = declared_names().collect();
    let functions = module.functions.iter().filter_map(|(_, f)| f.name.as_deref());
    let constants = module.constants.iter().filter_map(|(_, c)| c.name.as_deref());
    let types = module.types.iter().filter_map(|(_, t)| t.name.as_deref());
    // A constant without a type of its own is in no module.
    let lines = wgsl.lines().filter_map(|line| declared_name(line.trim_start()));
    let ours = ["phi", "x", "y", "Row", "KEY_DIM", "FEATURE_DIM"];
    let own = functions.chain(constants).chain(types).chain(lines);
    let mut own = own.filter(|name| !ours.contains(name));
    match own.find(|name| taken.contains(name)) {
        Some(name) => Err(refused(format!("expected names of its own, found {name}"))),
        None => Ok(()),
    }
}

/// True if a function makes a Row, which would name a row that it was not given.
fn makes_a_row(module: &naga::Module) -> bool {
    use naga::{Expression, TypeInner};
    let Some((row, _)) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some("Row")) else {
        return false;
    };
    let holds_rows = |ty: &naga::Type| match &ty.inner {
        TypeInner::Array { base, .. } | TypeInner::Pointer { base, .. } => *base == row,
        TypeInner::Struct { members, .. } => members.iter().any(|member| member.ty == row),
        _ => false,
    };
    let makes = |(_, expression): (_, &Expression)| match expression {
        Expression::ZeroValue(ty) | Expression::Compose { ty, .. } => *ty == row,
        _ => false,
    };
    module.types.iter().any(|(_, ty)| holds_rows(ty))
        || module.global_expressions.iter().any(makes)
        || module.functions.iter().any(|(_, function)| {
            function.local_variables.iter().any(|(_, variable)| variable.ty == row)
                || function.expressions.iter().any(makes)
        })
}

fn has_signature(module: &naga::Module, phi: &naga::Function) -> bool {
    let is = |ty, scalar| module.types[ty].inner == naga::TypeInner::Scalar(scalar);
    let [row, feature] = &phi.arguments[..] else { return false };
    module.types[row.ty].name.as_deref() == Some("Row")
        && is(feature.ty, naga::Scalar::U32)
        && phi.result.as_ref().is_some_and(|result| is(result.ty, naga::Scalar::F32))
}

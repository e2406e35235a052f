//! A caller's own feature map: a WGSL function and the same as a closure.

use std::fmt;

use crate::ConfigError;

/// φ as a closure: from a row, and from its projections where the map has any, to its features.
type Reference = dyn Fn(&[f64], &[f64], &mut [f64]) + Send + Sync;

/// A feature map of the caller's own: the text of a WGSL function
///
/// ```wgsl
/// fn phi(row: Row, feature: u32) -> f32
/// ```
///
/// which is called for each of the F features of a row of q or k. It may call
///
/// | function | gives |
/// | --- | --- |
/// | `x(row, i) -> f32` | number i of the row, i below the override `KEY_DIM` |
/// | `y(row, p) -> f32` | number p of its projections W x + b, where the map has any |
///
/// and functions, constants and structures that the text declares beside it; `FEATURE_DIM` is F.
/// It cannot reach another row, a buffer, or another thread, so no map can look at the future.
///
/// The text is compiled by naga here, before any pipeline exists, and runs with every index and
/// loop checked, whatever [`ShaderChecks`](crate::ShaderChecks) says of the others. The closure is
/// the same map in f64, for [`reference`](mod@crate::reference) and for the harness.
///
/// ```
/// use linear_attention::{Config, CustomMap, FeatureMap};
///
/// // cosh(x) - 1 and |x|, side by side.
/// let wgsl = "fn phi(row: Row, feature: u32) -> f32 {
///     if (feature < KEY_DIM) { return cosh(x(row, feature)) - 1.0; }
///     return abs(x(row, feature - KEY_DIM));
/// }";
/// let map = CustomMap::new("cosh-abs", wgsl, 128, |x, _, features| {
///     for (i, x) in x.iter().enumerate() {
///         features[i] = x.cosh() - 1.0;
///         features[64 + i] = x.abs();
///     }
/// })?;
/// let mut config = Config::new(64, 64);
/// config.feature_map = FeatureMap::Custom(map.non_negative().into());
/// config.validate()?;
/// # Ok::<(), linear_attention::ConfigError>(())
/// ```
pub struct CustomMap {
    name: String,
    wgsl: String,
    features: u32,
    projections: u32,
    iterations: Option<u32>,
    is_non_negative: bool,
    reference: Box<Reference>,
}

impl CustomMap {
    /// A map of F = `features` features whose text is `wgsl` and which is `reference(x, y, features)`
    /// in f64, with x the K numbers of a row, y its projections (none, so far), and all F features to
    /// be written.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Phi`], naming the line, where the text is no WGSL, has no such function, or
    /// declares what a feature map must not: entry points, bindings, overrides, variables outside
    /// functions. In a browser only wgpu's own compiler looks at it, when a pipeline is made.
    pub fn new(
        name: &str,
        wgsl: &str,
        features: u32,
        reference: impl Fn(&[f64], &[f64], &mut [f64]) + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        #[cfg(not(target_arch = "wasm32"))]
        check::check(name, wgsl)?;
        Ok(Self {
            name: name.to_owned(),
            wgsl: wgsl.to_owned(),
            features,
            projections: 0,
            iterations: None,
            is_non_negative: false,
            reference: Box::new(reference),
        })
    }

    /// The same with P projections y = W x + b of each row, from [`Weights`](crate::Weights); at
    /// most [`MAX_DIM`](crate::MAX_DIM), which keeps them in workgroup memory.
    #[must_use]
    pub fn with_projections(self, projections: u32) -> Self {
        Self { projections, ..self }
    }

    /// The same, of which a call makes at most so many loop iterations: K + P, unless this says
    /// otherwise. Some software devices leave every loop, silently, when an invocation has made
    /// 65,535 of them in all, and segments are cut by it.
    #[must_use]
    pub fn with_iterations(self, iterations: u32) -> Self {
        Self { iterations: Some(iterations), ..self }
    }

    /// The same, whose features the caller knows never to be negative: the normalised form then
    /// needs no asking by name.
    #[must_use]
    pub fn non_negative(self) -> Self {
        Self { is_non_negative: true, ..self }
    }

    /// The map's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its text.
    #[must_use]
    pub fn wgsl(&self) -> &str {
        &self.wgsl
    }

    /// F.
    #[must_use]
    pub fn features(&self) -> u32 {
        self.features
    }

    /// P.
    #[must_use]
    pub fn projections(&self) -> u32 {
        self.projections
    }

    /// Loop iterations of a call at most.
    pub(crate) fn iterations(&self, key_dim: u32) -> u64 {
        self.iterations.map_or(u64::from(key_dim) + u64::from(self.projections), u64::from)
    }

    /// Whether its features are never negative.
    #[must_use]
    pub fn is_non_negative(&self) -> bool {
        self.is_non_negative
    }

    /// φ of a row in f64, as the caller's closure has it.
    pub(crate) fn map(&self, x: &[f64], y: &[f64], features: &mut [f64]) {
        (self.reference)(x, y, features);
    }
}

impl fmt::Debug for CustomMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CustomMap")
            .field("name", &self.name)
            .field("features", &self.features)
            .field("projections", &self.projections)
            .field("is_non_negative", &self.is_non_negative)
            .finish_non_exhaustive()
    }
}

/// Closures cannot be compared: two maps are equal where all that pipelines are made of is.
impl PartialEq for CustomMap {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.wgsl, self.features, self.projections, self.is_non_negative)
            == (&other.name, &other.wgsl, other.features, other.projections, other.is_non_negative)
    }
}

#[cfg(not(target_arch = "wasm32"))]
mod check {
    use wgpu::naga;

    use crate::ConfigError;
    use crate::stage::{declared_name, declared_names};

    /// All that a map may use, as far as a compiler must know it.
    const PRELUDE: &str = include_str!("../shaders/workgroup/phi_prelude.wgsl");
    const SIGNATURE: &str = "fn phi(row: Row, feature: u32) -> f32";

    /// Whether the text is a feature map, which can reach nothing but the row it is given, and whose
    /// names are its own.
    pub(super) fn check(name: &str, wgsl: &str) -> Result<(), ConfigError> {
        let refused = |message: String| ConfigError::Phi {
            feature_map: name.to_owned(),
            message: message.trim().to_owned(),
        };
        // The map's own text first, so that the lines which errors name are its own.
        let source = format!("{wgsl}\n{PRELUDE}");
        let parse = |source: &str| {
            naga::front::wgsl::parse_str(source)
                .map_err(|error| refused(error.emit_to_string_with_path(source, name)))
        };
        let module = parse(&source)?;
        let expect = |holds: bool, found: &str| {
            if holds {
                Ok(())
            } else {
                Err(refused(format!("expected {SIGNATURE}, found {found}")))
            }
        };
        let mut functions = module.functions.iter();
        let phi = functions.find(|(_, function)| function.name.as_deref() == Some("phi"));
        expect(phi.is_some(), "no such function")?;
        expect(
            phi.is_some_and(|(_, phi)| has_signature(&module, phi)),
            "a function of another type",
        )?;
        let prelude = parse(PRELUDE)?;
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

    /// Whether a function makes a Row, which would name a row that it was not given.
    fn makes_a_row(module: &naga::Module) -> bool {
        use naga::{Expression, TypeInner};
        let Some((row, _)) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some("Row"))
        else {
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
}

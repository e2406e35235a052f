//! A caller's own feature map: a WGSL function and the same as a closure.

use std::fmt;

use crate::error::ConfigError;

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
/// | `x(row, i) -> f32` | element i of the row, i below the override `KEY_DIM` |
/// | `y(row, p) -> f32` | element p of its projections W x + b, where the map has any |
///
/// and functions, constants and structures that the text declares beside it; `FEATURE_DIM` is F.
/// It cannot reach another row, a buffer, or another thread, so no map can look at the future.
///
/// The text is compiled by naga here, before any pipeline exists, and runs with every index and
/// loop checked, whatever [`ShaderChecks`](crate::ShaderChecks) says of the others. The closure is
/// the same map in f64, for [`reference`](mod@crate::reference) and for the harness.
///
/// ```
/// use linear_attention::feature_map::CustomMap;
/// use linear_attention::{Config, FeatureMap};
///
/// // cosh(x) - 1 and |x|, contiguous.
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
/// let map = FeatureMap::Custom(map.non_negative().into());
/// Config::new(64, 64).with_feature_map(map).validate()?;
/// # Ok::<(), linear_attention::error::ConfigError>(())
/// ```
pub struct CustomMap {
    name: String,
    wgsl: String,
    features: u32,
    projections: u32,
    is_non_negative: bool,
    reference: Box<Reference>,
}

impl CustomMap {
    /// A map of F = `features` features with the text `wgsl`, and with `reference(x, y, features)`
    /// as the same map in f64. x are the K elements of a row, y its projections (none, unless
    /// [`CustomMap::with_projections`] asks for some), and the closure writes all F features.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Phi`], naming the line, where the text is no WGSL, has no such function, or
    /// declares what a feature map must not: entry points, bindings, overrides, variables outside
    /// functions. In a browser only wgpu's own compiler looks at it, when a pipeline is made.
    ///
    /// Each call of `phi` counts as at most K + P loop iterations, by which segments are kept
    /// within the iterations that llvmpipe executes.
    pub fn new(
        name: &str,
        wgsl: &str,
        features: u32,
        reference: impl Fn(&[f64], &[f64], &mut [f64]) + Send + Sync + 'static,
    ) -> Result<Self, ConfigError> {
        #[cfg(not(target_arch = "wasm32"))]
        super::custom_check::check(name, wgsl)?;
        Ok(Self {
            name: name.to_owned(),
            wgsl: wgsl.to_owned(),
            features,
            projections: 0,
            is_non_negative: false,
            reference: Box::new(reference),
        })
    }

    /// The same with P projections y = W x + b of each row, from
    /// [`Weights`](crate::feature_map::Weights); at most 256, which
    /// keeps them in workgroup memory.
    #[must_use]
    pub fn with_projections(self, projections: u32) -> Self {
        Self { projections, ..self }
    }

    /// The same for a map whose features are never negative, by the caller's word: the normalised
    /// form is then accepted without being asked for by name.
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

    /// True if its features are never negative.
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
        let all = |map: &Self| (map.features, map.projections, map.is_non_negative);
        (&self.name, &self.wgsl, all(self)) == (&other.name, &other.wgsl, all(other))
    }
}

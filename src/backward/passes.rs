//! The pipelines of the passes of the recipe `sums`.

use std::num::NonZeroU64;
use std::ops::Range;

use wgpu::BufferBinding;

use crate::attention::LinearAttention;
use crate::backward::plan::pass::{Pass, PassConfigs};
use crate::bind::bound::Bound;
use crate::bind::options::Options;
use crate::bind::tensors::Tensors;
use crate::error::{BindError, ConfigError};
use crate::plan::tuning::Tuning;

/// Compiled by the first plan that needs them, as in a forward pass.
#[derive(Debug)]
pub(super) struct Passes {
    pub(super) configs: PassConfigs,
    by_features: LinearAttention,
    /// `None` where they are the same.
    by_values: Option<LinearAttention>,
}

impl Passes {
    /// `None` where the gradients of a forward pass are no sums, or the device has no room for
    /// their passes. `options` are the caller's; without `reverses` all passes are in forward time.
    pub(super) fn new(
        forward: &LinearAttention,
        options: &Options<'_>,
        reverses: bool,
    ) -> Result<Option<Self>, ConfigError> {
        let device = forward.device();
        let (limits, device_type) = (device.limits(), device.adapter_info().device_type);
        let has_own = options.tuning.is_some() || options.matrix_units.is_some();
        let given = has_own.then(|| forward.tuning());
        let tuned = |config: &_| Tuning::new(config, &limits, device_type);
        let Some(configs) = PassConfigs::new(forward.config(), given, &tuned) else {
            return Ok(None);
        };
        let configs = PassConfigs { reverses, ..configs };
        let attention = |(config, tuning): &(_, Tuning)| {
            let options = Options { tuning: Some(*tuning), matrix_units: None, ..options.clone() };
            LinearAttention::with_options(device, Clone::clone(config), &options)
        };
        let by_features = attention(&configs.by_features)?;
        let is_same = configs.by_features == configs.by_values;
        let by_values = if is_same { None } else { Some(attention(&configs.by_values)?) };
        Ok(Some(Self { configs, by_features, by_values }))
    }

    /// Binds ranges of scratch.
    pub(super) fn bind(
        &self,
        pass: &Pass,
        scratch: &BufferBinding<'_>,
    ) -> Result<Bound, BindError> {
        let range = |part: &Range<u64>| BufferBinding {
            buffer: scratch.buffer,
            offset: scratch.offset + part.start,
            size: NonZeroU64::new(part.end - part.start),
        };
        let [q, k, v, o] = pass.rows.each_ref().map(range);
        let mut tensors = Tensors::from_bindings(q, k, v, o);
        tensors.decay = (!pass.decays.is_empty()).then(|| range(&pass.decays));
        tensors.initial_state = Some(range(&pass.states));
        tensors.final_state = pass.stores_state.then(|| range(&pass.states));
        let is_first = *self.by_features.config() == *pass.plan.config();
        let attention = self.by_values.as_ref().filter(|_| !is_first).unwrap_or(&self.by_features);
        attention.bind(&pass.plan, &tensors, Some(range(&pass.scratch)))
    }
}

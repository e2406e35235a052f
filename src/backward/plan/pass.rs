//! A pass of the forward kernels, with the roles of the tensors exchanged.

use std::ops::Range;

use crate::backward::plan::rows::columns;
use crate::error::ConfigError;
use crate::kernel::gradient::has_sums;
use crate::plan::Plan;
use crate::plan::tuning::Tuning;
use crate::problem::config::{Config, Normalization};
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::{Decay, UpdateRule};

/// The configs of the passes, and the sizes they are compiled with.
#[derive(Clone, Debug)]
pub(crate) struct PassConfigs {
    /// Keys as wide as features and values as wide as w.
    pub(crate) by_features: (Config, Tuning),
    /// Keys as wide as w and values as wide as features.
    pub(crate) by_values: (Config, Tuning),
    /// False for a mistake: all passes are in forward time.
    pub(crate) reverses: bool,
}

impl PassConfigs {
    /// `None` where gradients of the config are no such sums, or wider than a row of k may be.
    /// `tuned` has the sizes of a config's pass on the device, and `given` the caller's, of which
    /// all but the layout are taken.
    pub(crate) fn new(
        config: &Config,
        given: Option<&Tuning>,
        tuned: &dyn Fn(&Config) -> Result<Tuning, ConfigError>,
    ) -> Option<Self> {
        if !has_sums(config) {
            return None;
        }
        let rule = match config.update_rule.decay() {
            None => UpdateRule::Linear,
            Some(_) => UpdateRule::Gated(Decay::per_head()),
        };
        let tuned = |[key_dim, value_dim]: [u32; 2]| {
            let config = Config::new(key_dim, value_dim)
                .with_update_rule(rule)
                .with_feature_map(FeatureMap::Identity)
                .with_normalization(Normalization::None);
            config.validate().ok()?;
            let tuning = tuned(&config).ok()?;
            let layout = tuning.layout.with_even_columns(&config);
            Some((config, Tuning { layout, ..*given.unwrap_or(&tuning) }))
        };
        let (features, columns) = (config.features().next_multiple_of(4), columns(config));
        let by_features = tuned([features, columns])?;
        Some(Self { by_features, by_values: tuned([columns, features])?, reverses: true })
    }
}

/// A pass of the forward kernels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pass {
    pub(crate) plan: Plan,
    /// The bytes of scratch that it has as q, k, v and o.
    pub(crate) rows: [Range<u64>; 4],
    /// Those of its decays; empty where it has none.
    pub(crate) decays: Range<u64>,
    /// Those of its initial state, in whose place it stores the final one if `stores_state`.
    pub(crate) states: Range<u64>,
    pub(crate) stores_state: bool,
    /// True where the states of its segments stay in its scratch for gradients by decays.
    pub(crate) keeps_states: bool,
    /// Those of its own scratch.
    pub(crate) scratch: Range<u64>,
}

//! Sums over the lanes of a row by subgroup operations.

use super::{Layout, RowSource};
use crate::error::ConfigError;
use crate::problem::config::Config;

impl Layout {
    /// True if neighbours in subgroups of `subgroup` lanes can add up the sums of a row.
    pub(super) fn fits_subgroup(self, config: &Config, subgroup: u32) -> bool {
        let lanes = self.lanes(config);
        self.row_source == RowSource::Workgroup && matches!(lanes, 2 | 4 | 8) && lanes <= subgroup
    }

    /// Refuses sums by subgroup operations on a device whose subgroups have `subgroup` lanes at
    /// least.
    pub(crate) fn check_subgroups(self, config: &Config, subgroup: u32) -> Result<(), ConfigError> {
        if !self.subgroup_sums || self.fits_subgroup(config, subgroup) {
            return Ok(());
        }
        let lanes = self.lanes(config);
        Err(ConfigError::Tuning {
            what: "subgroup_sums",
            required: format!("false without Features::SUBGROUP and subgroups of {lanes} lanes"),
            actual: format!("true, and subgroups of {subgroup}"),
        })
    }

    /// Without sums by subgroup operations, and with them where lanes can.
    pub(crate) fn with_and_without_subgroups(self, config: &Config, subgroup: u32) -> Vec<Self> {
        let mut both = vec![self.with_subgroup_sums(false)];
        if self.fits_subgroup(config, subgroup) {
            both.push(self.with_subgroup_sums(true));
        }
        both
    }
}

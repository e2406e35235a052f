//! Layouts for matrix units.

use super::{Layout, RowSource, WHOLE_FEATURES};
use crate::error::ConfigError;
use crate::problem::config::{Config, Gating};
use crate::problem::dtype::Dtype;
use crate::problem::feature_map::FeatureMap;

impl Layout {
    /// Matrices of `size` rows and columns, 8 or 16, and `subgroups` of `subgroup_size` lanes with
    /// `size` columns each.
    #[cfg(any(test, not(target_arch = "wasm32")))]
    pub(crate) fn matrices(size: u32, subgroups: u32, subgroup_size: u32) -> Self {
        Self {
            rows: size,
            columns: size,
            column_threads: subgroups,
            chunk_tokens: size,
            chunk_queries: size,
            row_source: RowSource::Matrices { subgroup_size },
            subgroup_sums: false,
        }
    }

    /// Those worth trying, best first: as many subgroups as share a chunk without padding.
    #[cfg(not(target_arch = "wasm32"))]
    pub(crate) fn all_matrices(config: &Config, size: u32, subgroup_size: u32) -> Vec<Self> {
        let tiles = [config.features(), config.value_dim].map(|n| n.div_ceil(size));
        let fits = |subgroups: &u32| tiles.iter().all(|tiles| tiles.is_multiple_of(*subgroups));
        let subgroups = [8, 4, 2, 1].into_iter().filter(fits);
        subgroups.map(|subgroups| Self::matrices(size, subgroups, subgroup_size)).collect()
    }

    /// Lanes of a subgroup, `None` without matrix units.
    pub(crate) fn subgroup_size(self) -> Option<u32> {
        match self.row_source {
            RowSource::Matrices { subgroup_size } => Some(subgroup_size),
            _ => None,
        }
    }

    /// Bytes of `matrix/segment_output.wgsl` and of the files it imports.
    pub(super) fn matrix_memory(self, config: &Config) -> u64 {
        let [tokens, features, columns] =
            [self.rows, self.block_features(config), self.block_columns()].map(u64::from);
        // Keys, queries, values, the state and the scores.
        let halves = tokens * (2 * features + columns) + features * columns + tokens * tokens;
        // A panel of the state, scores times values; where o is normalised, nu and products with
        // it; the decays between two tokens.
        let of_nu = if config.is_normalized() { features + self.threads(config) } else { 8 };
        let of_pairs = if config.update_rule.decay().is_some() { tokens * (tokens + 1) } else { 4 };
        // The panel has the squares of rows as well, a quarter as many.
        let of_squares = if config.l2_norm { features / 4 } else { 0 };
        let floats = tokens * (columns + columns.max(of_squares)) + of_nu + of_pairs;
        // Thirteen of a token, two more of a delta rule; arrays begin at multiples of 16 bytes, and
        // all threads share a work item.
        let of_token = if config.update_rule.beta().is_some() { 15 } else { 13 };
        2 * halves + 4 * (floats + of_token * tokens) + 160
    }

    /// Refuses what the matrix units have no shader for.
    pub(super) fn check_matrices(
        self,
        config: &Config,
        subgroup_size: u32,
    ) -> Result<(), ConfigError> {
        let refuse = |what, required: &str, actual: String| {
            Err(ConfigError::Tuning { what, required: required.to_owned(), actual })
        };
        if config.gates() == Some(Gating::PerRow) {
            let required = "without decays of rows, on matrix units";
            return refuse("update_rule", required, config.update_rule.name().to_owned());
        }
        if config.dtype == Dtype::F32 {
            let actual = config.dtype.name().to_owned();
            return refuse("dtype", "F16 or Bf16 on matrix units", actual);
        }
        let maps = [config.key_map(), config.query_map()];
        let are_element_wise = maps.into_iter().all(FeatureMap::is_element_wise);
        if !are_element_wise || config.features() > WHOLE_FEATURES {
            let required = "element-wise, with up to 256 features, on matrix units";
            return refuse("feature_map", required, config.key_map().to_string());
        }
        for (what, required, actual, is_met) in [
            ("rows", "8 or 16, the rows of a matrix", self.rows, matches!(self.rows, 8 | 16)),
            (
                "columns",
                "a multiple of the rows of a matrix",
                self.columns,
                self.columns.is_multiple_of(self.rows),
            ),
            (
                "chunk_tokens",
                "the rows of a matrix",
                self.chunk_tokens,
                self.chunk_tokens == self.rows,
            ),
            (
                "chunk_queries",
                "the rows of a matrix",
                self.chunk_queries,
                self.chunk_queries == self.rows,
            ),
            (
                "subgroup_size",
                "4 to 128, with the rows of a matrix or a multiple in a workgroup",
                subgroup_size,
                (4..=128).contains(&subgroup_size)
                    && self.threads(config).is_multiple_of(self.rows.into()),
            ),
        ] {
            if !is_met {
                return refuse(what, required, actual.to_string());
            }
        }
        Ok(())
    }
}

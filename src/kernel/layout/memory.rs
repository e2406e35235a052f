//! Workgroup memory, and the limits of a device.

use super::SCAN_THREADS;
use crate::error::ConfigError;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;

/// True if a device has the threads and the workgroup memory that a kernel asks of it.
pub(crate) fn check_limits(
    limits: &wgpu::Limits,
    threads: u64,
    memory: u64,
) -> Result<(), ConfigError> {
    let threads = threads.max(SCAN_THREADS.into());
    for (what, required, actual) in [
        (
            "max_compute_invocations_per_workgroup",
            threads,
            limits.max_compute_invocations_per_workgroup,
        ),
        ("max_compute_workgroup_size_x", threads, limits.max_compute_workgroup_size_x),
        ("max_compute_workgroup_storage_size", memory, limits.max_compute_workgroup_storage_size),
    ] {
        if u64::from(actual) < required {
            return Err(ConfigError::Limit { what, required, actual: actual.into() });
        }
    }
    Ok(())
}

/// Bytes of `chunk/workgroup.wgsl` and of the files it imports.
pub(super) fn of_chunk(
    config: &Config,
    [tokens, queries]: [u32; 2],
    [lanes, features, columns]: [u32; 3],
    subgroup_sums: bool,
) -> u64 {
    let [tokens, queries, lanes] = [tokens, queries, lanes].map(u64::from);
    let (features, columns) = (u64::from(features), u64::from(columns));
    let partial_sums = match lanes {
        // A word of each thread and a flag, in vec4s: a thread has at least four columns.
        _ if subgroup_sums => (lanes * columns / 4).next_multiple_of(4) + 4,
        1 => 4,
        _ => queries * lanes * columns,
    };
    let mut floats = (tokens + queries) * features + tokens * columns + partial_sums;
    if config.normalization.eps().is_some() {
        // nu, and its products with the queries.
        floats += features + queries * ((features / 4 + 7) / 4 * 4);
    }
    if config.scales_queries() {
        // The row max of each query, and its scale.
        floats += 3 * queries;
    }
    if !config.is_element_wise() {
        // Rows as they are, the projections kept of them, and what all features of one share.
        let kept = |map: &FeatureMap| map.kept_projections(config.key_dim);
        let kept = kept(config.key_map()).max(kept(config.query_map()));
        let row = config.key_dim.div_ceil(4) + kept + 1;
        floats += 4 * ((tokens + queries) * u64::from(row) + 1) + 2 * queries;
    }
    if config.update_rule.beta().is_some() && lanes > 1 {
        // Products of each key with those before it, and their sums.
        floats += (tokens * tokens / 2).max(1) * (features / 4 + 1) + 8;
    }
    // Arrays of vec4 begin at multiples of 16 bytes, and all threads share a work item.
    4 * floats + 128
}

//! The kernels that a device can run, and the obstacles to the rest.

use crate::error::ConfigError;
use crate::kernel::layout::Layout;
use crate::kernel::stage::Stage;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;

/// A kernel, and the obstacle on a device if there is one.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Kernel {
    /// The stage that it computes.
    pub stage: Stage,
    /// The best tile of mu that fits, or the smallest one where none fits. `None` for stages that
    /// every layout shares.
    pub layout: Option<Layout>,
    /// The limit that the device does not meet; `None` where it can run the kernel.
    pub obstacle: Option<ConfigError>,
    /// True if [`Tuning::new`] chooses it for the device.
    pub is_chosen: bool,
}

/// Every kernel for `config`, and for a device with these limits whether it can run and whether it
/// is chosen. All that differs between devices is here: no kernel asks for a feature.
///
/// ```
/// use linear_attention::{Config, wgpu};
/// use linear_attention::tuning::kernels;
///
/// let mut limits = wgpu::Limits::default();
/// limits.max_compute_workgroup_storage_size = 1024;
/// for kernel in kernels(&Config::new(64, 64), &limits, wgpu::DeviceType::Other)? {
///     if let Some(obstacle) = &kernel.obstacle {
///         println!("{} of {:?}: {obstacle}", kernel.stage.name(), kernel.layout);
///     }
/// }
/// # Ok::<(), linear_attention::error::ConfigError>(())
/// ```
///
/// # Errors
///
/// A config out of range.
pub fn kernels(
    config: &Config,
    limits: &wgpu::Limits,
    device_type: wgpu::DeviceType,
) -> Result<Vec<Kernel>, ConfigError> {
    config.validate()?;
    let chosen = Tuning::new(config, limits, device_type).ok().map(|tuning| tuning.layout);
    let mut kernels = Vec::new();
    // Best first; the last asks for the least.
    for layouts in [Layout::workgroups(config), vec![Layout::for_cpu(config)]] {
        let mut checked =
            layouts.iter().map(|layout| (*layout, layout.check(config, limits).err()));
        let fits = checked.clone().find(|(_, obstacle)| obstacle.is_none());
        let Some((layout, obstacle)) = fits.or_else(|| checked.next_back()) else { continue };
        let is_chosen = chosen.is_some_and(|chosen: Layout| chosen.is_like(layout));
        let tiled = [
            Stage::SegmentState,
            Stage::SegmentTransition,
            Stage::SegmentOutput,
            Stage::DecodeStep,
        ];
        for stage in tiled {
            kernels.push(Kernel {
                stage,
                layout: Some(layout),
                obstacle: obstacle.clone(),
                is_chosen,
            });
        }
    }
    // They need less than any other.
    let obstacle = kernels.iter().map(|kernel| &kernel.obstacle).min_by_key(|o| o.is_some());
    let obstacle = obstacle.cloned().flatten();
    let untiled = [
        Stage::SequenceClaims,
        Stage::SequenceConflicts,
        Stage::SequenceTable,
        Stage::TokenGates,
        Stage::StateScan,
        Stage::TransitionScan,
        Stage::OutputSum,
    ];
    for stage in untiled {
        let is_chosen = chosen.is_some();
        kernels.push(Kernel { stage, layout: None, obstacle: obstacle.clone(), is_chosen });
    }
    kernels.sort_by_key(|kernel| kernel.stage as usize);
    Ok(kernels)
}

//! The kernels that a device can run, and the obstacles to the rest.

use crate::error::ConfigError;
use crate::kernel::layout::{Layout, SCAN_THREADS, check_limits};
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
    /// The limit that the device does not meet; `None` where it can run the kernel in the calls
    /// that ask for the least.
    pub obstacle: Option<ConfigError>,
    /// Storage buffers that the kernel binds in a call without states whose sequences have equal
    /// lengths: no more than the device's `max_storage_buffers_per_shader_stage` where there is no
    /// obstacle.
    pub min_storage_buffers: u32,
    /// Storage buffers that it binds in the call that has the most: an initial state, a final state
    /// elsewhere, and lengths. With as many every call runs, with fewer `bind` refuses some by
    /// [`BindError::StorageBuffers`](crate::error::BindError::StorageBuffers).
    pub max_storage_buffers: u32,
    /// True if [`Tuning::new`] chooses it for the device.
    pub is_chosen: bool,
}

/// Every kernel for `config`, and for a device with these limits whether it can run and whether it
/// is chosen. All that differs between devices is here: no kernel asks for a feature. A call needs
/// the kernels of its [`Plan::dispatches`](crate::Plan::dispatches) alone.
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
    let kernel = |stage: Stage, shape: (Option<Layout>, Option<ConfigError>), is_chosen| {
        let (layout, obstacle) = shape;
        // Stages that every layout shares bind the same in each.
        let of = layout.unwrap_or(Layout::for_cpu(config));
        let [least, most] = stage.storage_buffers(config, of);
        let actual = limits.max_storage_buffers_per_shader_stage;
        let few = (actual < least).then(|| ConfigError::Limit {
            what: "max_storage_buffers_per_shader_stage",
            required: least.into(),
            actual: actual.into(),
        });
        let obstacle = obstacle.or(few);
        let (min_storage_buffers, max_storage_buffers) = (least, most);
        Kernel { stage, layout, obstacle, min_storage_buffers, max_storage_buffers, is_chosen }
    };
    // Best first; the last asks for the least.
    let is_cpu = device_type == wgpu::DeviceType::Cpu;
    for layouts in [Layout::workgroups(config, is_cpu, 1), vec![Layout::for_cpu(config)]] {
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
            kernels.push(kernel(stage, (Some(layout), obstacle.clone()), is_chosen));
        }
    }
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
        let obstacle = check_limits(limits, SCAN_THREADS.into(), 0).err();
        kernels.push(kernel(stage, (None, obstacle), chosen.is_some()));
    }
    kernels.sort_by_key(|kernel| kernel.stage as usize);
    Ok(kernels)
}

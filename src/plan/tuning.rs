//! How a problem is cut to fit a device: layouts and segments.

use crate::error::ConfigError;
use crate::kernel::layout::Layout;
use crate::problem::config::Config;

/// Sizes that decide how fast a result comes, never what it is beyond rounding.
///
/// [`Tuning::new`] chooses by device type and limits, [`tune`](crate::tuning::tune) by measuring.
/// With the feature `serde` a tuning can be stored and read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Tuning {
    /// Who holds mu.
    pub layout: Layout,
    /// Workgroups that the device runs at a time: a sequence is cut into segments where
    /// that makes the last workgroup end sooner.
    pub workgroups: u32,
    /// Tokens below which a segment is not worth its state.
    pub min_segment_len: u32,
    /// Tokens above which a sequence is cut however full the device is, so that the rounding
    /// error of the running sum stops growing with T.
    pub max_segment_len: u32,
    /// Most tokens of a segment of a sequence that is so cut: each is added to a sum as large as
    /// all before it, and the fewer follow one another, the less that costs in accuracy.
    pub cut_segment_len: u32,
    /// Loop iterations that an invocation may make. llvmpipe leaves every loop, silently,
    /// when an invocation has made 65,535 iterations in all of its loops together; GPUs
    /// have no such limit.
    pub max_loop_iterations: u32,
}

impl Tuning {
    /// What does well on a device of this type with these limits.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Limit`] where the device has too few invocations or too little
    /// workgroup memory for any choice. wgpu's default limits are always enough.
    pub fn new(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let software = device_type == wgpu::DeviceType::Cpu;
        let workgroups = match device_type {
            wgpu::DeviceType::Cpu => {
                std::thread::available_parallelism().map_or(4, |n| n.get() as u32)
            }
            wgpu::DeviceType::IntegratedGpu => 128,
            _ => 512,
        };
        let mut refused = None;
        // A thread on its own would map rows that others have mapped.
        let layouts = match software && config.is_element_wise() {
            true => vec![Layout::thread(config)],
            false => Layout::workgroups(config),
        };
        for layout in layouts {
            let tuning = Self {
                layout,
                workgroups,
                min_segment_len: 128,
                max_segment_len: 16_384,
                cut_segment_len: 1024,
                max_loop_iterations: if software { 65_000 } else { u32::MAX },
            };
            match tuning.check(config, limits) {
                Ok(()) => return Ok(tuning),
                Err(error) => refused = Some(error),
            }
        }
        // The list is never empty, and its last entry asks for the least.
        Err(refused.unwrap_or(ConfigError::Tuning {
            what: "layout",
            required: "one that fits".to_owned(),
            actual: 0,
        }))
    }

    /// The few choices worth measuring on a device: [`Tuning::new`] first, then other layouts,
    /// narrower places, shorter chunks and more segments, each within the limits.
    ///
    /// # Errors
    ///
    /// As [`Tuning::new`].
    pub fn candidates(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
    ) -> Result<Vec<Self>, ConfigError> {
        let first = Self::new(config, limits, device_type)?;
        let mut layouts = vec![first.layout];
        let software = device_type == wgpu::DeviceType::Cpu;
        // A GPU has registers for 128 accumulators, a software device's stack for thousands.
        let (accumulators, threads) = if software { (4096, 8) } else { (128, 64) };
        let quads = config.value_dim.div_ceil(4).next_power_of_two();
        layouts.extend(
            [8, 4, 2, 1]
                .into_iter()
                .filter(|value_quads| *value_quads <= quads)
                .map(|value_quads| Layout::Thread { value_quads, threads })
                .filter(|layout| layout.values() * config.key_dim <= accumulators),
        );
        // A software device is slow with it, and compiles slowly: one is enough there.
        let narrower: &[u32] = if software { &[1] } else { &[1, 2, 4] };
        let all_rows: &[u32] = if software { &[16] } else { &[16, 8, 4] };
        for narrower in narrower {
            let column_threads = u32::max(quads / narrower, 1);
            layouts.extend(all_rows.iter().map(|rows| Layout::Workgroup {
                column_threads,
                chunk_tokens: *rows,
                chunk_queries: *rows,
            }));
        }
        let mut found: Vec<Self> = Vec::new();
        for layout in layouts {
            for workgroups in [first.workgroups, first.workgroups * 4] {
                let tuning = Self { layout, workgroups, ..first };
                if tuning.check(config, limits).is_ok() && !found.contains(&tuning) {
                    found.push(tuning);
                }
            }
        }
        Ok(found)
    }

    /// Whether pipelines compiled for the one serve the other: only the plan reads the
    /// segments' sizes.
    #[must_use]
    pub fn compiles_like(&self, other: &Self) -> bool {
        self.layout == other.layout
    }

    /// Whether every size is at least 1 and the device has room for it.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Tuning`] or [`ConfigError::Limit`], naming the first that is not met.
    pub fn check(&self, config: &Config, limits: &wgpu::Limits) -> Result<(), ConfigError> {
        config.validate()?;
        for (what, actual) in [
            ("workgroups", self.workgroups),
            ("min_segment_len", self.min_segment_len),
            ("max_segment_len", self.max_segment_len),
            ("cut_segment_len", self.cut_segment_len),
            ("max_loop_iterations", self.max_loop_iterations),
        ] {
            if actual == 0 {
                let required = "at least 1".to_owned();
                return Err(ConfigError::Tuning { what, required, actual: 0 });
            }
        }
        self.layout.check(config, limits)
    }
}

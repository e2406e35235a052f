//! Sizes that fit a problem to a device: the layout and the segments.

use crate::error::ConfigError;
use crate::kernel::layout::Layout;
use crate::plan::workarounds::max_loop_iterations;
use crate::problem::config::Config;

/// Sizes that decide how fast a result comes, never what it is beyond rounding.
///
/// [`Tuning::new`] chooses by device type and limits, [`tune`](crate::tuning::tune) by measuring.
/// With the feature `serde` a tuning can be stored and read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Tuning {
    /// The tile of mu that a work item holds.
    pub layout: Layout,
    /// Occupancy: workgroups in flight on the device. A sequence has several segments where the
    /// last workgroup then ends sooner. By default it is as many as have 32,768 threads on a
    /// discrete GPU or 8,192 on an integrated one, and the threads of the host on a CPU adapter,
    /// since wgpu does not report compute units. [`tune`](crate::tuning::tune) also measures four
    /// times as many.
    pub workgroups: u32,
    /// Least tokens of a segment, below which its state costs more than it saves.
    pub min_segment_len: u32,
    /// Tokens above which a sequence has several segments on any device, so that the rounding
    /// error of the running sum stops growing with T.
    pub max_segment_len: u32,
    /// Most tokens of a segment of such a sequence. The rounding error of a running sum grows with
    /// the tokens that are added to it one by one.
    #[cfg_attr(feature = "serde", serde(alias = "cut_segment_len"))]
    pub long_sequence_segment_len: u32,
    /// Most tokens of a segment with a delta rule, whose segments cost more than twice as much: it
    /// has several where workgroups are missing, or where a driver's loops are too short for one.
    #[cfg_attr(feature = "serde", serde(default = "unlimited"))]
    pub max_delta_segment_len: u32,
    /// Tokens of every segment, or `None` where they are chosen by the time that they take. With a
    /// length of its own, of at most `long_sequence_segment_len` (or, with a delta rule,
    /// `max_delta_segment_len`), the bits of a sequence's result depend on nothing but the
    /// sequence: neither on the batch or pack that it is in nor on the device's occupancy. The
    /// price: no `decode_step`, whose sums have another order, and segments that fit no device in
    /// particular.
    #[cfg_attr(feature = "serde", serde(default))]
    pub segment_len: Option<u32>,
    /// Most operations of one submission, at least 2^20, where
    /// [`record_submission`](crate::LinearAttention::record_submission) or
    /// [`run`](crate::LinearAttention::run) submit a call in parts. Drivers reset a device whose
    /// submission takes two seconds or so, and no one can stop a submission. By default 2^38 for a
    /// discrete GPU, 2^33 for a CPU adapter and 2^35 for any other: a third of a second for 0.8,
    /// 0.025 and 0.1 T operations a second. [`tune`](crate::tuning::tune) measures it. It changes
    /// no bit but where a long sequence has to be cut: see [`Split`](crate::plan::Split).
    #[cfg_attr(feature = "serde", serde(default = "of_unknown_device"))]
    pub max_operations: u64,
    /// True if a thread loads its share of a chunk into registers before the chunk before it is
    /// done, in loops that are written out ([`RowSource::Workgroup`] alone). By default on GPUs: a
    /// CPU adapter's compiler takes several times as long for it.
    ///
    /// [`RowSource::Workgroup`]: crate::tuning::RowSource::Workgroup
    #[cfg_attr(feature = "serde", serde(default))]
    pub rows_ahead: bool,
    /// Loop iterations that an invocation may make: see `workarounds.rs`.
    #[cfg_attr(feature = "serde", serde(default = "unlimited"))]
    pub(crate) max_loop_iterations: u32,
}

impl Tuning {
    /// A tuning that does well on a device of this type with these limits.
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
        Self::with_subgroups(config, limits, device_type, 1)
    }

    /// The same with sums by subgroup operations ([`Layout::subgroup_sums`]) and the longer chunks
    /// that they leave memory for, where lanes fit a device whose subgroups have so many lanes at
    /// least: 1 where it was not granted [`wgpu::Features::SUBGROUP`], else its adapter's
    /// `subgroup_min_size` ([`subgroup_lanes`](crate::tuning::subgroup_lanes)). A CPU adapter does
    /// without. [`tune`](crate::tuning::tune) measures it; no GPU's time has decided yet which is
    /// faster.
    ///
    /// # Errors
    ///
    /// As [`Tuning::new`].
    pub fn with_subgroups(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
        subgroup_lanes: u32,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let is_cpu = device_type == wgpu::DeviceType::Cpu;
        // wgpu does not report compute units.
        let workgroups = |layout: Layout| match device_type {
            wgpu::DeviceType::Cpu => {
                std::thread::available_parallelism().map_or(4, |n| n.get() as u32)
            }
            wgpu::DeviceType::IntegratedGpu => workgroups_of(8 << 10, layout.threads(config)),
            _ => workgroups_of(32 << 10, layout.threads(config)),
        };
        let mut refused = None;
        // With row-wise maps each thread on its own would map rows that others map as well.
        let layouts = match is_cpu && config.is_element_wise() && config.features() <= 256 {
            true => vec![Layout::for_cpu(config)],
            false => Layout::workgroups(config, is_cpu, if is_cpu { 1 } else { subgroup_lanes }),
        };
        for layout in layouts {
            let tuning = Self {
                layout,
                workgroups: workgroups(layout),
                min_segment_len: 128,
                max_segment_len: 16_384,
                long_sequence_segment_len: 1024,
                max_delta_segment_len: u32::MAX,
                segment_len: None,
                max_operations: max_operations(device_type),
                rows_ahead: !is_cpu,
                max_loop_iterations: max_loop_iterations(device_type),
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
            actual: "none".to_owned(),
        }))
    }

    /// The few choices worth measuring on a device: [`Tuning::new`] first, then other layouts,
    /// narrower tiles, shorter chunks and more segments, each within the limits.
    ///
    /// # Errors
    ///
    /// As [`Tuning::new`].
    pub fn candidates(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
    ) -> Result<Vec<Self>, ConfigError> {
        Self::candidates_with_subgroups(config, limits, device_type, 1)
    }

    /// The same with sums by subgroup operations, too, as in [`Tuning::with_subgroups`].
    pub(crate) fn candidates_with_subgroups(
        config: &Config,
        limits: &wgpu::Limits,
        device_type: wgpu::DeviceType,
        subgroup_lanes: u32,
    ) -> Result<Vec<Self>, ConfigError> {
        let first = Self::new(config, limits, device_type)?;
        let shuffled = Self::with_subgroups(config, limits, device_type, subgroup_lanes)?;
        let mut layouts = vec![first.layout, shuffled.layout];
        let is_cpu = device_type == wgpu::DeviceType::Cpu;
        let vec4s = config.value_dim.div_ceil(4).next_power_of_two();
        // A CPU adapter keeps tiles on its stack, is slow with workgroup memory and compiles
        // slowly: a few candidates are enough there.
        if is_cpu {
            layouts.extend([32, 16, 8, 4].map(Layout::direct));
            layouts.push(Layout::workgroup(16, 4, vec4s, 16));
        } else {
            // Slices of V are all that a delta rule can share out without more work.
            let corrects = config.update_rule.beta().is_some();
            let narrow: &[u32] = if corrects { &[1, 2, 4] } else { &[1, 2] };
            // Twice the accumulators, and a third fewer instructions that are no multiply-adds.
            layouts.push(Layout::workgroup(16, 8, u32::max(vec4s / 2, 1), 4));
            for rows in [16, 32] {
                for narrower in narrow {
                    let column_threads = u32::max(vec4s / narrower, 1);
                    for chunk in [16, 8, 4] {
                        layouts.push(Layout::workgroup(rows, 4, column_threads, chunk));
                    }
                }
            }
        }
        let mut found: Vec<Self> = Vec::new();
        let subgroup = if is_cpu { 1 } else { subgroup_lanes };
        let both = layouts
            .into_iter()
            .flat_map(|layout| layout.with_and_without_subgroups(config, subgroup));
        for layout in std::iter::once(first.layout).chain(both) {
            for workgroups in [first.workgroups, first.workgroups * 4] {
                let tuning = Self { layout, workgroups, ..first };
                if tuning.check(config, limits).is_ok() && !found.contains(&tuning) {
                    found.push(tuning);
                }
            }
        }
        Ok(found)
    }

    /// With another layout.
    #[must_use]
    pub fn with_layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    /// With another occupancy, in workgroups.
    #[must_use]
    pub fn with_workgroups(self, workgroups: u32) -> Self {
        Self { workgroups, ..self }
    }

    /// With another least length of a segment, in tokens.
    #[must_use]
    pub fn with_min_segment_len(self, min_segment_len: u32) -> Self {
        Self { min_segment_len, ..self }
    }

    /// With another length, in tokens, above which a sequence has several segments.
    #[must_use]
    pub fn with_max_segment_len(self, max_segment_len: u32) -> Self {
        Self { max_segment_len, ..self }
    }

    /// With another length, in tokens, of the segments of such a sequence.
    #[must_use]
    pub fn with_long_sequence_segment_len(self, long_sequence_segment_len: u32) -> Self {
        Self { long_sequence_segment_len, ..self }
    }

    /// With segments of so many tokens in any company: see [`Tuning::segment_len`].
    #[must_use]
    pub fn with_segment_len(self, segment_len: impl Into<Option<u32>>) -> Self {
        Self { segment_len: segment_len.into(), ..self }
    }

    /// With at most so many operations in a submission: see [`Tuning::max_operations`].
    #[must_use]
    pub fn with_max_operations(self, max_operations: u64) -> Self {
        Self { max_operations, ..self }
    }

    /// True if both use the same pipelines: only the plan reads the segments' sizes.
    #[must_use]
    pub fn compiles_like(&self, other: &Self) -> bool {
        self.layout == other.layout && self.rows_ahead == other.rows_ahead
    }

    /// Checks that every size is at least 1 and that the device has room for the layout.
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
            ("long_sequence_segment_len", self.long_sequence_segment_len),
            ("segment_len", self.segment_len.unwrap_or(1)),
        ] {
            if actual == 0 {
                let required = "at least 1".to_owned();
                return Err(ConfigError::Tuning { what, required, actual: "0".to_owned() });
            }
        }
        if self.max_operations < MIN_OPERATIONS {
            let (what, required) = ("max_operations", format!("at least {MIN_OPERATIONS}"));
            return Err(ConfigError::Tuning {
                what,
                required,
                actual: self.max_operations.to_string(),
            });
        }
        self.layout.check(config, limits)
    }
}

/// Workgroups of so many threads together.
fn workgroups_of(all: u32, threads: u64) -> u32 {
    all / threads.clamp(1, all.into()) as u32
}

/// Fewest operations of a submission: to submit takes longer.
const MIN_OPERATIONS: u64 = 1 << 20;

/// Operations that the slowest device of a type should do within a second.
fn max_operations(device_type: wgpu::DeviceType) -> u64 {
    match device_type {
        wgpu::DeviceType::DiscreteGpu => 1 << 38,
        wgpu::DeviceType::Cpu => 1 << 33,
        _ => 1 << 35,
    }
}

#[cfg(feature = "serde")]
fn of_unknown_device() -> u64 {
    max_operations(wgpu::DeviceType::Other)
}

/// Until [`LinearAttention::with_options`](crate::LinearAttention::with_options) knows the device.
#[cfg(feature = "serde")]
fn unlimited() -> u32 {
    u32::MAX
}

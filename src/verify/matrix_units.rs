//! The check that matrix units pass before any call uses them.

use super::{Harness, Options, cases};
use crate::bind::matrix_units::MatrixUnits;
use crate::error::{ConfigError, MatrixUnitsError};
use crate::kernel::layout::Layout;
use crate::plan::tuning::Tuning;
use crate::problem::config::Config;

impl MatrixUnits {
    /// Looks for matrix units that compute `config` on the device, and has them compute some small
    /// cases: several chunks and segments, packed sequences, states of a pool. Those pass whose
    /// results agree with f64 as the harness demands it ([`verify`](crate::verify)). Compiles some
    /// pipelines and blocks until the device is done: seconds. `adapter` is the one that the device
    /// is from.
    ///
    /// ```no_run
    /// # use linear_attention::{Config, LinearAttention, Options, wgpu};
    /// # use linear_attention::tuning::MatrixUnits;
    /// # fn f(adapter: wgpu::Adapter, device: wgpu::Device, queue: wgpu::Queue, config: Config)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// let units = MatrixUnits::new(&adapter, &device, &queue, &config);
    /// if let Err(reason) = &units {
    ///     println!("no matrix units: {reason}");
    /// }
    /// let options = Options::default().with_matrix_units(units.as_ref().ok());
    /// let attention = LinearAttention::with_options(&device, config, &options)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The first obstacle: see [`MatrixUnitsError`].
    pub fn new(
        adapter: &wgpu::Adapter,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        config: &Config,
    ) -> Result<Self, MatrixUnitsError> {
        let required = Self::required_features();
        let actual = device.features() & required;
        if actual != required {
            return Err(MatrixUnitsError::Features { required, actual });
        }
        let offered = adapter.cooperative_matrix_properties();
        let is_offered = |size: &u32| {
            offered.iter().any(|shape| {
                [shape.m_size, shape.n_size, shape.k_size] == [*size; 3]
                    && shape.ab_type == wgpu::CooperativeScalarType::F16
                    && shape.cr_type == wgpu::CooperativeScalarType::F32
            })
        };
        let sizes: Vec<u32> = [16, 8].into_iter().filter(is_offered).collect();
        // Drivers that have several widths of subgroups take the widest for a large workgroup.
        let info = adapter.get_info();
        let widths = [info.subgroup_max_size, info.subgroup_min_size];
        let widths = if widths[0] == widths[1] { &widths[..1] } else { &widths[..] };
        let mut refused = MatrixUnitsError::Shapes { actual: format!("{offered:?}") };
        for size in sizes {
            for subgroup_size in widths {
                let tuning = tuning(device, config, size, *subgroup_size)?;
                match passes(device, queue, config, tuning) {
                    Ok(()) => return Ok(Self::checked(device, config, tuning)),
                    Err(error) => refused = error,
                }
            }
        }
        Err(refused)
    }
}

/// The first layout that fits the device, with as many threads in flight as without matrix units.
fn tuning(
    device: &wgpu::Device,
    config: &Config,
    size: u32,
    subgroup_size: u32,
) -> Result<Tuning, ConfigError> {
    let limits = device.limits();
    let device_type = device.adapter_info().device_type;
    let without = Tuning::new(config, &limits, device_type)?;
    let mut refused = None;
    for layout in Layout::all_matrices(config, size, subgroup_size) {
        let mut tuning = without.with_layout(layout);
        if device_type != wgpu::DeviceType::Cpu {
            let threads = u64::from(without.workgroups) * without.layout.threads(config);
            let workgroups = threads / layout.threads(config).max(1);
            tuning = tuning.with_workgroups(workgroups.clamp(1, 1 << 20) as u32);
        }
        match tuning.check(config, &limits) {
            Ok(()) => return Ok(tuning),
            Err(error) => refused = Some(error),
        }
    }
    // One subgroup fits every number of matrices, so that there is an obstacle.
    refused.map_or(Ok(without), Err)
}

fn passes(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    config: &Config,
    tuning: Tuning,
) -> Result<(), MatrixUnitsError> {
    let options = Options::default().with_tuning(tuning);
    let mut harness = Harness::new(device, queue, &options);
    for case in cases::cases_of(config) {
        if let Some(row) = harness.check(&case).into_iter().find(|row| !row.passed) {
            let what = match row.message.is_empty() {
                true => {
                    let (error, bound) = (row.error, row.bound);
                    format!("{} {}: error {error:e}, bound {bound:e}", row.stage, row.tensor)
                }
                false => row.message,
            };
            let size = tuning.layout.rows;
            return Err(MatrixUnitsError::Wrong { size, case: row.case, what });
        }
    }
    Ok(())
}

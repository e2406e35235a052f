//! The numbers of devices, from `devices.csv` or from a caller.

use std::fmt;
use std::str::FromStr;

use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{DeviceType, Limits};
use linear_attention::{Config, Plan};

use crate::{MeasureError, Sizes};

const TABLE: &str = include_str!("devices.csv");

/// The numbers of a device, which need not be at hand. The table's are its vendor's.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceNumbers {
    /// A short name.
    pub name: String,
    /// Discrete, integrated or CPU.
    pub device_type: DeviceType,
    /// Bytes a second between memory and the chip, over 10^9.
    pub gb_s: f64,
    /// Compute units: streaming multiprocessors, WGPs' halves, Xe cores, cores.
    pub units: f64,
    /// Lanes of a unit that begin an instruction in a cycle.
    pub lanes: f64,
    /// Cycles a second, over 10^9.
    pub ghz: f64,
    /// Multiply-adds of a lane in a cycle: 2 where vendors count two instructions that begin at
    /// once.
    pub multiply_adds: f64,
    /// Invocations that a unit has at a time.
    pub unit_threads: f64,
    /// KiB of workgroup memory of a unit.
    pub unit_kib: f64,
    /// KiB of workgroup memory that a workgroup may have.
    pub workgroup_kib: u32,
    /// Least lanes of a subgroup; 1 where a caller grants none.
    pub subgroup_lanes: u32,
    /// Whose numbers they are.
    pub source: String,
}

impl DeviceNumbers {
    /// Every device of the table.
    #[must_use]
    pub fn all() -> Vec<Self> {
        TABLE.lines().skip(1).filter_map(Self::of_line).collect()
    }

    fn of_line(line: &str) -> Option<Self> {
        let mut fields = line.split(';');
        let mut next = || fields.next();
        let name = next()?.to_owned();
        let device_type = match next()? {
            "discrete" => DeviceType::DiscreteGpu,
            "integrated" => DeviceType::IntegratedGpu,
            "cpu" => DeviceType::Cpu,
            _ => return None,
        };
        let mut number = || next()?.parse::<f64>().ok();
        Some(Self {
            name,
            device_type,
            gb_s: number()?,
            units: number()?,
            lanes: number()?,
            ghz: number()?,
            multiply_adds: number()?,
            unit_threads: number()?,
            unit_kib: number()?,
            workgroup_kib: number()? as u32,
            subgroup_lanes: 1,
            source: next()?.to_owned(),
        })
    }

    /// A discrete GPU of these bytes a second over 10^9, f32 operations a second over 10^9 and
    /// units. The rest is as on most of today's: 128 lanes, 1,536 threads and 100 KiB a unit.
    #[must_use]
    pub fn of_numbers([gb_s, gflop_s, units]: [f64; 3]) -> Self {
        let lanes = 128.0;
        Self {
            name: format!("{gb_s} GB/s, {gflop_s} GFLOP/s, {units} units"),
            device_type: DeviceType::DiscreteGpu,
            gb_s,
            units,
            lanes,
            ghz: gflop_s / (2.0 * lanes * units),
            multiply_adds: 1.0,
            unit_threads: 1536.0,
            unit_kib: 100.0,
            workgroup_kib: 32,
            subgroup_lanes: 1,
            source: "the command line".to_owned(),
        }
    }

    /// Instructions of single lanes a second.
    #[must_use]
    pub fn lane_rate(&self) -> f64 {
        1e9 * self.units * self.lanes * self.ghz
    }

    /// Operations of f32 multiply-adds a second, two to each.
    #[must_use]
    pub fn flops(&self) -> f64 {
        2.0 * self.multiply_adds * self.lane_rate()
    }

    /// The plan that the device would get for a shape; a step of decoding has its states in a pool.
    /// Of `config` K and V are those of `sizes`.
    ///
    /// # Errors
    ///
    /// [`MeasureError::Config`] or [`MeasureError::Plan`].
    pub fn plan(&self, sizes: &Sizes, config: &Config) -> Result<Plan, MeasureError> {
        let mut config = config.clone();
        (config.key_dim, config.value_dim) = (sizes.k, sizes.v);
        let mut shape = sizes.shape();
        if sizes.is_step() {
            shape = shape.with_slots(sizes.b);
        }
        let limits = self.limits();
        let mut tuning =
            Tuning::with_subgroups(&config, &limits, self.device_type, self.subgroup_lanes)?;
        if self.device_type == DeviceType::Cpu {
            // Those of the device, and not of the machine that asks.
            tuning = tuning.with_workgroups(self.units as u32);
        }
        Ok(Plan::new(&config, &shape, &limits, &tuning)?)
    }

    /// Its limits as an adapter would have them.
    fn limits(&self) -> Limits {
        let invocations = 1024;
        Limits {
            max_compute_workgroup_storage_size: self.workgroup_kib << 10,
            max_compute_invocations_per_workgroup: invocations,
            max_compute_workgroup_size_x: invocations,
            max_storage_buffer_binding_size: 2 << 30,
            max_buffer_size: 4 << 30,
            max_storage_buffers_per_shader_stage: 16,
            ..Limits::default()
        }
    }
}

impl fmt::Display for DeviceNumbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, gb_s, units, source, .. } = self;
        let gflop_s = 1e-9 * self.flops();
        write!(f, "{name}: {gb_s} GB/s, {gflop_s:.0} GFLOP/s, {units} units ({source})")
    }
}

impl FromStr for DeviceNumbers {
    type Err = String;

    /// A name of the table, or `GB/S,GFLOP/S,UNITS`; with `+subgroups` as a caller has it who was
    /// granted them, eight lanes at least.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(text) = text.strip_suffix("+subgroups") {
            let device = text.parse::<Self>()?;
            let name = format!("{} with subgroups", device.name);
            return Ok(Self { name, subgroup_lanes: 8, ..device });
        }
        let mut all = Self::all();
        if let Some(known) = all.iter().position(|device| device.name == text) {
            return Ok(all.swap_remove(known));
        }
        let wanted = || {
            let names: Vec<_> = all.iter().map(|device| device.name.as_str()).collect();
            format!("expected one of {} or GB/S,GFLOP/S,UNITS, found {text}", names.join(", "))
        };
        let numbers: Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
        match numbers.as_deref() {
            Ok([gb_s, gflop_s, units]) => {
                let numbers = [*gb_s, *gflop_s, *units];
                match numbers.iter().all(|number| number.is_finite() && *number > 0.0) {
                    true => Ok(Self::of_numbers(numbers)),
                    false => Err(format!("expected three numbers above 0, found {text}")),
                }
            }
            _ => Err(wanted()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_a_device_with_a_source() {
        let all = DeviceNumbers::all();
        assert_eq!(all.len(), TABLE.lines().count() - 1);
        for device in &all {
            assert!(device.source.len() > 20, "{device}");
            assert_eq!(device.name.parse().as_ref(), Ok(device));
        }
    }

    #[test]
    fn rates_are_those_that_vendors_give() {
        for (name, tflop_s) in [
            ("h100", 67.0),
            ("rtx4090", 82.6),
            ("rx7900xtx", 61.4),
            ("rx6900xt", 23.0),
            ("rx9070xt", 48.7),
            ("m1max", 10.4),
            ("m2max", 13.6),
            ("arca770", 17.2),
            ("llvmpipe", 0.11),
        ] {
            let device: Result<DeviceNumbers, _> = name.parse();
            let found = device.map_or(0.0, |device| 1e-12 * device.flops());
            assert!((found / tflop_s - 1.0).abs() < 0.01, "{name}: {found}");
        }
    }

    /// Longer chunks pay where latency bounds a call, and shuffles cost instructions elsewhere.
    #[test]
    fn subgroups_make_no_call_much_slower() {
        for (name, sizes, most) in [
            ("h100", [1, 4096, 8, 64], 0.9),
            ("h100", [8, 4096, 16, 64], 1.08),
            ("h100", [8, 4096, 16, 128], 1.17),
            ("h100", [32, 1024, 16, 128], 1.17),
            ("rtx4090", [8, 4096, 16, 128], 1.01),
            ("rx7900xtx", [1, 65_536, 16, 128], 1.09),
            ("rx7900xtx", [8, 4096, 16, 128], 1.17),
            ("m1max", [1, 8192, 4, 128], 1.1),
        ] {
            let [b, t, h, d] = sizes;
            let sizes: Result<Sizes, _> = format!("{b},{t},{h},{d}").parse();
            let seconds = |name: String| {
                let device = name.parse::<DeviceNumbers>().ok()?;
                let plan = device.plan(sizes.as_ref().ok()?, &Config::new(d, d)).ok()?;
                Some(crate::model::Prediction::of(&plan, &device).seconds)
            };
            let [without, with] = [seconds(name.to_owned()), seconds(format!("{name}+subgroups"))];
            println!("{name} {b},{t},{h},{d}: {without:?} {with:?}");
            let ratio = with.zip(without).map_or(f64::NAN, |(with, without)| with / without);
            assert!(ratio <= most, "{name} {b},{t},{h},{d}: {ratio}");
        }
    }

    #[test]
    fn three_numbers_are_a_device() {
        let device: Result<DeviceNumbers, _> = "500,16000,40".parse();
        let found = device.map(|device| (device.gb_s, device.units, device.flops().round()));
        assert_eq!(found, Ok((500.0, 40.0, 16e12)));
        for (text, part) in [
            ("h101", "expected one of h100, h200"),
            ("1,2", "found 1,2"),
            ("1,2,0", "above 0"),
            ("1,inf,3", "above 0"),
        ] {
            let error = text.parse::<DeviceNumbers>().err().unwrap_or_default();
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

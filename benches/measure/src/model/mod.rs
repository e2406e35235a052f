//! A model of time: how long a plan takes on a device that is not there.
//!
//! A device does five things at a time, and the slowest of them decides: it moves bytes, multiplies
//! and adds, begins instructions, reads and writes workgroup memory, and waits, for loads and at
//! barriers, as long as the work items in flight are few. A CPU adapter does them one after the
//! other.
//!
//! The counts are the plan's ([`Work`]), and the instructions those that a compiler made
//! (`docs/gpu-compilers.md`). What it leaves out: caches, the overlap of dispatches, clocks that
//! sink.

mod device;
mod tile;
mod work;

use linear_attention::Plan;
use linear_attention::wgpu::DeviceType;

pub use device::DeviceNumbers;
pub use work::{Item, Work};

/// Parts of a vendor's bandwidth and of the instructions it can begin that kernels reach.
const BANDWIDTH: f64 = 0.9;
const ISSUE: f64 = 0.8;
/// Bytes of workgroup memory that a unit reads or writes in a cycle.
const SHARED_BYTES: f64 = 128.0;
/// Seconds until a load from memory arrives, until a barrier and an access after it complete, and
/// between two dispatches that depend on each other.
const LOAD: f64 = 600e-9;
const BARRIER: f64 = 40e-9;
const DISPATCH: f64 = 4e-6;
/// Cycles from one instruction of a wave to the next, where no other wave is there.
const CYCLES: f64 = 1.5;
/// llvmpipe, for eight invocations: a vec4 that is loaded or stored, one that is mapped, and how
/// much of its multiply-adds LLVM reaches in a large tile (docs/design.md, "One layout, five
/// numbers").
const CPU_ACCESS: f64 = 25e-9;
const CPU_MAP: f64 = 6.5e-9;
const CPU_MULTIPLY_ADD: f64 = 0.3;

/// The resource that bounds a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Bound {
    /// Bytes between memory and the chip.
    Memory,
    /// Operations of multiply-adds.
    MultiplyAdd,
    /// Instructions that begin.
    Instructions,
    /// Bytes of workgroup memory; on a CPU adapter loads and stores.
    Accesses,
    /// Loads and barriers of one work item after the other.
    Latency,
    /// Dispatches.
    Dispatches,
}

impl Bound {
    /// The name, in one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::MultiplyAdd => "multiply-add",
            Self::Instructions => "instructions",
            Self::Accesses => "accesses",
            Self::Latency => "latency",
            Self::Dispatches => "dispatches",
        }
    }
}

/// A predicted time in seconds, and its parts.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Prediction {
    /// Of all dispatches of a call.
    pub seconds: f64,
    /// Each part, as long as it would take alone.
    pub parts: [(Bound, f64); 6],
}

impl Prediction {
    /// The prediction for a plan on a device.
    #[must_use]
    pub fn of(plan: &Plan, device: &DeviceNumbers) -> Self {
        Self::of_work(&Work::of(plan), device)
    }

    /// The prediction for the work of a plan.
    #[must_use]
    pub fn of_work(work: &Work, device: &DeviceNumbers) -> Self {
        let is_cpu = device.device_type == DeviceType::Cpu;
        let memory = work.bytes / (1e9 * device.gb_s * if is_cpu { 1.0 } else { BANDWIDTH });
        let dispatches = work.dispatches * DISPATCH;
        let (multiply_adds, instructions, accesses, latency);
        if is_cpu {
            let groups = |count: f64| count / 8.0 / device.units;
            multiply_adds = work.flops / device.flops() / CPU_MULTIPLY_ADD;
            instructions = groups(work.maps) * CPU_MAP;
            accesses = groups(work.accesses) * CPU_ACCESS;
            latency = 0.0;
        } else {
            multiply_adds = work.flops / device.flops();
            instructions = work.instructions / (device.lane_rate() * ISSUE);
            let shared = 1e9 * device.units * device.ghz * SHARED_BYTES;
            accesses = 16.0 * work.accesses / shared;
            latency = work.items.iter().map(|item| waiting(item, device)).sum();
        }
        let parts = [
            (Bound::Memory, memory),
            (Bound::MultiplyAdd, multiply_adds),
            (Bound::Instructions, instructions),
            (Bound::Accesses, accesses),
            (Bound::Latency, latency),
            (Bound::Dispatches, dispatches),
        ];
        let slowest = parts[..5].iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
        let seconds = match is_cpu {
            true => memory.max(multiply_adds + instructions + accesses),
            false => slowest,
        };
        Self { seconds: seconds + dispatches, parts }
    }

    /// The part that takes longest.
    #[must_use]
    pub fn bound(&self) -> Bound {
        let mut slowest = self.parts[0];
        for part in self.parts {
            if part.1 > slowest.1 {
                slowest = part;
            }
        }
        slowest.0
    }
}

/// Seconds for one work item after the other, on a device that has all that fit at a time.
fn waiting(item: &Item, device: &DeviceNumbers) -> f64 {
    let by_threads = device.unit_threads / item.threads.max(32.0);
    let by_memory = 1024.0 * device.unit_kib / item.memory.max(1.0);
    let resident = device.units * by_threads.min(by_memory).floor().max(1.0);
    let rounds = (item.workgroups / resident).ceil();
    let instructions = item.instructions * CYCLES / (1e9 * device.ghz);
    let (loads, work) = (item.loads * LOAD, item.barriers * BARRIER + instructions);
    rounds * if item.loads_ahead { LOAD + loads.max(work) } else { loads + work }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(name: &str) -> DeviceNumbers {
        name.parse().unwrap_or_else(|_| DeviceNumbers::of_numbers([1.0; 3]))
    }

    #[test]
    fn each_part_alone_is_its_count_over_its_rate() {
        let h100 = device("h100");
        let item = Item {
            workgroups: 132.0,
            threads: 64.0,
            memory: 8192.0,
            instructions: 0.0,
            loads: 1000.0,
            loads_ahead: false,
            barriers: 0.0,
        };
        for (work, bound, seconds) in [
            (Work { bytes: 3.35e9, ..Work::default() }, Bound::Memory, 1e-3 / 0.9),
            (Work { flops: 66.9e9, ..Work::default() }, Bound::MultiplyAdd, 1e-3),
            (Work { instructions: 33.45e9, ..Work::default() }, Bound::Instructions, 1.25e-3),
            (Work { accesses: 2.09e9, ..Work::default() }, Bound::Accesses, 1e-3),
            (Work { items: vec![item], ..Work::default() }, Bound::Latency, 0.6e-3),
            (Work { dispatches: 100.0, ..Work::default() }, Bound::Dispatches, 0.4e-3),
        ] {
            let found = Prediction::of_work(&work, &h100);
            assert_eq!(found.bound(), bound);
            assert!((found.seconds / seconds - 1.0).abs() < 0.01, "{bound:?}: {found:?}");
        }
    }

    #[test]
    fn work_items_beyond_those_in_flight_take_another_round() {
        let h100 = device("h100");
        // 228 KiB hold two workgroups of 100 KiB: 264 at a time.
        let item = |workgroups| Item {
            workgroups,
            threads: 64.0,
            memory: 100.0 * 1024.0,
            instructions: 0.0,
            loads: 1.0,
            loads_ahead: false,
            barriers: 0.0,
        };
        let [one, same, two] = [1.0, 264.0, 265.0].map(|n| waiting(&item(n), &h100));
        assert_eq!([one, same, two], [LOAD, LOAD, 2.0 * LOAD]);
    }

    #[test]
    fn loads_ahead_hide_behind_the_work_or_it_behind_them() {
        let h100 = device("h100");
        let item = |loads, barriers| Item {
            workgroups: 1.0,
            threads: 64.0,
            memory: 8192.0,
            instructions: 0.0,
            loads,
            loads_ahead: true,
            barriers,
        };
        assert_eq!(waiting(&item(100.0, 10.0), &h100), 101.0 * LOAD);
        assert_eq!(waiting(&item(1.0, 1000.0), &h100), LOAD + 1000.0 * BARRIER);
    }

    #[test]
    fn a_cpu_adapter_adds_its_parts() {
        let work = Work { flops: 1e9, accesses: 1e9, maps: 1e9, ..Work::default() };
        let found = Prediction::of_work(&work, &device("llvmpipe"));
        let parts: f64 = found.parts.iter().map(|(_, seconds)| seconds).sum();
        assert!((found.seconds - parts).abs() < 1e-9, "{found:?}");
    }
}

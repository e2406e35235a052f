//! The adapters, the best of them, and a device with all that its adapter has.

use std::sync::Arc;

use linear_attention::cpu::CpuAttention;
use linear_attention::tuning::MatrixUnits;
use linear_attention::wgpu::{
    self, Adapter, AdapterInfo, Backend, Backends, Device, DeviceType, Features, Queue,
};
use linear_attention::{Config, LinearAttention};
pub(crate) use linear_attention_measure::driver;

use crate::failure::Failure;

/// The way to get an adapter where there is none.
pub(crate) const DRIVER_HINT: &str = "a software Vulkan driver makes every machine an adapter; \
     on Debian or Ubuntu: apt-get install mesa-vulkan-drivers";

/// Every adapter of every backend, each once, the best first.
pub(crate) fn all() -> Vec<Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let found = pollster::block_on(instance.enumerate_adapters(Backends::all()));
    let mut adapters: Vec<Adapter> = Vec::new();
    for adapter in found {
        // A driver can be reached in several ways, as through EGL's platforms.
        if !adapters.iter().any(|known| identity(known) == identity(&adapter)) {
            adapters.push(adapter);
        }
    }
    adapters.sort_by_key(rank);
    adapters
}

fn identity(adapter: &Adapter) -> (Backend, String, String, String, u32, u32, String) {
    let info = adapter.get_info();
    let AdapterInfo { backend, name, driver, driver_info, vendor, device, .. } = info;
    (backend, name, driver, driver_info, vendor, device, info.device_pci_bus_id)
}

/// The order of adapters: those that can run first, then the faster kind of device, then the
/// backend that does not emulate another.
fn rank(adapter: &Adapter) -> (bool, u8, bool) {
    let info = adapter.get_info();
    let kind = match info.device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Cpu => 3,
        DeviceType::Other => 4,
    };
    (obstacle(adapter).is_some(), kind, info.backend == Backend::Gl)
}

/// The reason that an adapter cannot run linear attention, if there is one.
pub(crate) fn obstacle(adapter: &Adapter) -> Option<String> {
    // So far the requirements do not depend on the config.
    let required = LinearAttention::required_limits(&Config::new(64, 64));
    let mut obstacle = None;
    required.check_limits_with_fail_fn(&adapter.limits(), false, |what, required, found| {
        obstacle.get_or_insert(format!("{what} must be at least {required}, found {found}"));
    });
    obstacle
}

/// Every adapter that `wanted` names, by a part of its name, backend or driver.
pub(crate) fn matching(wanted: &str) -> Result<Vec<Adapter>, Failure> {
    let wanted_lower = wanted.to_lowercase();
    let (matching, others): (Vec<_>, Vec<_>) = all().into_iter().partition(|adapter| {
        let AdapterInfo { name, backend, driver, driver_info, .. } = adapter.get_info();
        [name, backend.to_string(), driver, driver_info]
            .iter()
            .any(|text| text.to_lowercase().contains(&wanted_lower))
    });
    if matching.is_empty() {
        let found: Vec<_> = others.iter().map(name).collect();
        let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
        return Err(Failure::Input(format!(
            "--adapter {wanted}: expected a part of an adapter's name, backend or driver, \
             or cpu; found adapters: {found}"
        )));
    }
    Ok(matching)
}

/// A device, an engine or the reference: one of them computes.
pub(crate) enum Computer {
    Adapter(Adapter),
    /// The CPU engine.
    Cpu,
    /// The reference in f64.
    Reference,
}

/// The name by which a caller asks for the CPU engine.
pub(crate) const CPU: &str = "cpu";

/// The computer that `wanted` names. Where nothing is named it is the best GPU there is, and the
/// CPU engine where wgpu finds none but software.
pub(crate) fn choose(wanted: Option<&str>) -> Result<Computer, Failure> {
    match wanted {
        Some(CPU) => Ok(Computer::Cpu),
        Some(_) => Ok(pick(wanted)?.map_or(Computer::Cpu, Computer::Adapter)),
        None => {
            let is_gpu = |adapter: &Adapter| {
                obstacle(adapter).is_none() && adapter.get_info().device_type != DeviceType::Cpu
            };
            Ok(all().into_iter().find(is_gpu).map_or(Computer::Cpu, Computer::Adapter))
        }
    }
}

/// The CPU engine as every command prints it: its vectors and its cores.
pub(crate) fn cpu_name() -> String {
    // Its config does not change what it runs on.
    let vectors =
        CpuAttention::new(Config::new(64, 64)).map_or("no", |engine| engine.instruction_set());
    format!("cpu ({vectors}, {} threads)", rayon::current_num_threads())
}

/// The best adapter, of those that `wanted` names if it is given; none where none can run
/// and none was asked for.
pub(crate) fn pick(wanted: Option<&str>) -> Result<Option<Adapter>, Failure> {
    match wanted {
        Some(wanted) => Ok(matching(wanted)?.into_iter().next()),
        None => Ok(all().into_iter().find(|adapter| obstacle(adapter).is_none())),
    }
}

/// The adapter as every command prints it.
pub(crate) fn name(adapter: &Adapter) -> String {
    let info = adapter.get_info();
    format!("{} ({}, {})", info.name, info.backend, driver(&info))
}

/// A device with the adapter's own limits, and timestamps where it has them.
pub(crate) fn open(adapter: &Adapter) -> Result<(Device, Queue), Failure> {
    open_with(adapter, adapter.limits())
}

/// The same with these limits.
pub(crate) fn open_with(
    adapter: &Adapter,
    required_limits: wgpu::Limits,
) -> Result<(Device, Queue), Failure> {
    request(adapter, required_limits, Features::empty())
}

/// The same with its matrix units, if it has any.
pub(crate) fn open_with_matrix_units(adapter: &Adapter) -> Result<(Device, Queue), Failure> {
    let required = MatrixUnits::required_features();
    if !adapter.features().contains(required) {
        return open(adapter);
    }
    request(adapter, adapter.limits(), required)
}

fn request(
    adapter: &Adapter,
    required_limits: wgpu::Limits,
    experimental: Features,
) -> Result<(Device, Queue), Failure> {
    if let Some(obstacle) = obstacle(adapter) {
        return Err(Failure::Device(format!("{}: {obstacle}", name(adapter))));
    }
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("linear-attention"),
        required_features: adapter.features() & (Features::TIMESTAMP_QUERY | Features::SUBGROUP)
            | experimental,
        required_limits,
        experimental_features: match experimental.is_empty() {
            true => wgpu::ExperimentalFeatures::disabled(),
            // SAFETY: the caller of the program has asked for what an experimental feature may do
            // wrong.
            false => unsafe { wgpu::ExperimentalFeatures::enabled() },
        },
        ..Default::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|error| Failure::Device(format!("{}: {error}", name(adapter))))?;
    // wgpu would panic: this prints one line and exits as after any failure of a device.
    device.on_uncaptured_error(Arc::new(|error: wgpu::Error| {
        eprintln!("error: the device failed: {}", error.to_string().replace('\n', " "));
        std::process::exit(1);
    }));
    Ok((device, queue))
}

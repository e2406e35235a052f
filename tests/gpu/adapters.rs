//! The adapters of this machine, each with one device that all trials share.

use linear_attention::wgpu;

/// A device and where it came from.
pub(crate) struct Gpu {
    /// `name (backend)`, which trials are called by.
    pub(crate) name: String,
    /// The source of further devices.
    pub(crate) adapter: wgpu::Adapter,
    /// The device, with the adapter's own limits.
    pub(crate) device: wgpu::Device,
    /// Its queue.
    pub(crate) queue: wgpu::Queue,
}

/// A device of every adapter that can run compute shaders; the reason for each other adapter.
pub(crate) fn gpus() -> (Vec<Gpu>, Vec<String>) {
    let adapters = pollster::block_on(instance().enumerate_adapters(wgpu::Backends::PRIMARY));
    let (mut found, mut skipped) = (Vec::new(), Vec::new());
    for adapter in adapters {
        let info = adapter.get_info();
        let name = format!("{} ({})", info.name, info.backend);
        match open(&adapter) {
            Ok((device, queue)) => found.push(Gpu { name, adapter, device, queue }),
            Err(error) => skipped.push(format!("{name}: {error}")),
        }
    }
    (found, skipped)
}

/// The same adapter through an instance of its own, which counts what is made through it.
pub(crate) fn same_adapter(adapter: &wgpu::Adapter) -> Option<(wgpu::Instance, wgpu::Adapter)> {
    let wanted = adapter.get_info();
    let instance = instance();
    let adapters = pollster::block_on(instance.enumerate_adapters(wanted.backend.into()));
    let is_it = |adapter: &wgpu::Adapter| {
        let info = adapter.get_info();
        (info.name, info.backend, info.driver_info)
            == (wanted.name.clone(), wanted.backend, wanted.driver_info.clone())
    };
    let same = adapters.into_iter().find(is_it)?;
    Some((instance, same))
}

/// Without the lines of shaders that wgpu gives to drivers in debug builds, whose numbers take a
/// twentieth of the time of all trials to find.
fn instance() -> wgpu::Instance {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.flags.remove(wgpu::InstanceFlags::DEBUG);
    wgpu::Instance::new(descriptor)
}

/// Two more devices of an adapter.
pub(crate) fn two_devices(
    adapter: &wgpu::Adapter,
) -> Result<[wgpu::Device; 2], wgpu::RequestDeviceError> {
    Ok([open(adapter)?.0, open(adapter)?.0])
}

fn open(adapter: &wgpu::Adapter) -> Result<(wgpu::Device, wgpu::Queue), wgpu::RequestDeviceError> {
    pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        label: Some("linear_attention.tests"),
        // No test needs it, and some use it.
        required_features: adapter.features() & wgpu::Features::SUBGROUP,
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    }))
}

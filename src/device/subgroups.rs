//! The subgroups of a device.

/// Lanes that a subgroup of the device has at least; 1 where it was not granted
/// [`wgpu::Features::SUBGROUP`], so that no shader may use subgroups.
#[must_use]
pub fn subgroup_lanes(device: &wgpu::Device) -> u32 {
    match device.features().contains(wgpu::Features::SUBGROUP) {
        true => device.adapter_info().subgroup_min_size.max(1),
        false => 1,
    }
}

//! `adapters`: what wgpu finds here, and what each can run.

use linear_attention::wgpu::Features;

use crate::device;
use crate::failure::Failure;

/// Prints a paragraph for each adapter, the one that `run` would take first.
pub(crate) fn adapters() -> Result<(), Failure> {
    let adapters = device::all();
    if adapters.is_empty() {
        println!("no adapter: {}", device::DRIVER_HINT);
    }
    for adapter in adapters {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let timestamps = adapter.features().contains(Features::TIMESTAMP_QUERY);
        println!("{}", info.name);
        println!("  backend            {}", info.backend);
        println!("  driver             {}", device::driver(&info));
        println!("  type               {:?}", info.device_type);
        println!("  workgroup memory   {} bytes", limits.max_compute_workgroup_storage_size);
        println!("  invocations        {}", limits.max_compute_invocations_per_workgroup);
        println!("  largest binding    {} bytes", limits.max_storage_buffer_binding_size);
        println!("  timestamps         {}", if timestamps { "yes" } else { "no" });
        match device::obstacle(&adapter) {
            None => println!("  linear attention   runs"),
            Some(obstacle) => println!("  linear attention   cannot run: {obstacle}"),
        }
    }
    Ok(())
}

//! `adapters`: the devices found here, and the kernels that each can run.

use linear_attention::Config;
use linear_attention::tuning::{Kernel, Layout, RowSource, kernels};
use linear_attention::wgpu::Features;

use crate::device;
use crate::failure::Failure;

/// Prints the CPU engine, then a paragraph for each adapter, the best first.
pub(crate) fn adapters() -> Result<(), Failure> {
    println!("{}", device::cpu_name());
    println!("  linear attention   runs: the CPU engine, f32, every rule and map");
    let adapters = device::all();
    if adapters.is_empty() {
        println!("no adapter of wgpu: {}", device::DRIVER_HINT);
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
        let config = Config::new(64, 64);
        match kernels(&config, &limits, info.device_type) {
            Ok(kernels) => print_kernels(&kernels),
            Err(error) => return Err(error.into()),
        }
        match device::obstacle(&adapter) {
            None => println!("  linear attention   runs"),
            Some(obstacle) => println!("  linear attention   cannot run: {obstacle}"),
        }
    }
    Ok(())
}

/// A line for each layout and one for what all of them share, and for each kernel in it that the
/// device lacks something for.
fn print_kernels(kernels: &[Kernel]) {
    for (name, is_it) in [
        (
            "workgroup",
            (|layout| matches!(layout, Some(Layout { row_source: RowSource::Workgroup, .. })))
                as fn(_) -> bool,
        ),
        ("direct", |layout| matches!(layout, Some(Layout { row_source: RowSource::Direct, .. }))),
        ("shared", |layout| layout.is_none()),
    ] {
        let of_layout = kernels.iter().filter(|kernel| is_it(kernel.layout));
        let (here, missing): (Vec<_>, Vec<_>) =
            of_layout.partition(|kernel| kernel.obstacle.is_none());
        if let Some(first) = here.first() {
            let names: Vec<_> = here.iter().map(|kernel| kernel.stage.name()).collect();
            let state = if first.is_chosen { "available, chosen" } else { "available" };
            println!("  kernels, {name:<10}{}: {state}", names.join(", "));
        }
        for kernel in missing {
            if let Some(obstacle) = &kernel.obstacle {
                let stage = kernel.stage.name();
                println!("  kernels, {name:<10}{stage}: not available: {obstacle}");
            }
        }
    }
}

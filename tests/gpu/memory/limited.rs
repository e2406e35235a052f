//! A process that runs out of memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use libtest_mimic::Failed;
use linear_attention::error::PoolError;
use linear_attention::feature_map::{Weights, WeightsBuffer};
use linear_attention::serve::StatePool;
use linear_attention::{Config, Error, FeatureMap, Inputs, LinearAttention, Shape, wgpu};

use super::{Call, D, Serving, done, refusal};
use crate::adapters::Gpu;
use crate::properties::numbers;
use crate::trust::Own;

/// The address space of this process, cut to what it has and `room` bytes more for as long as this
/// lives.
struct Cut;

impl Cut {
    fn new(room: u64) -> Result<Self, Failed> {
        let status = std::fs::read_to_string("/proc/self/status")?;
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
        let size = size.and_then(|size| size.trim().strip_suffix(" kB")).ok_or("no VmSize")?;
        limit(&(size.trim().parse::<u64>()? * 1024 + room).to_string())?;
        Ok(Self)
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = limit("unlimited");
    }
}

/// The soft limit alone, which may be raised again.
fn limit(bytes: &str) -> Result<(), Failed> {
    let pid = std::process::id().to_string();
    let soft = format!("--as={bytes}:");
    let status = std::process::Command::new("prlimit").args(["--pid", &pid, &soft]).status()?;
    if status.success() { Ok(()) } else { Err("prlimit failed".into()) }
}

/// The end that a call must come to.
#[derive(Clone, Copy)]
enum Must {
    Fail,
    Succeed,
    Either,
}

/// A CPU adapter's memory is that of the process, which has a limit here.
pub(super) fn memory_ends(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let is_cpu = gpu.device.adapter_info().device_type == wgpu::DeviceType::Cpu;
    if !is_cpu || std::process::Command::new("prlimit").arg("--version").output().is_err() {
        return crate::runner::skip("it needs a CPU adapter and prlimit".to_owned());
    }
    // wgpu loses a device whose memory ends after the library has looked for it, and threads of the
    // driver may take some in between. That is once in some hundred runs; a device that is lost
    // each time is lost by a mistake.
    let mut ended = Ok(());
    for _ in 0..3 {
        let is_lost = Arc::new(AtomicBool::new(false));
        ended = memory_ends_on_a_device(gpu, &is_lost);
        match &ended {
            Err(error) if is_lost.load(Ordering::Relaxed) => {
                println!("wgpu lost the device: {error:?}");
            }
            _ => break,
        }
    }
    ended
}

fn memory_ends_on_a_device(gpu: &Gpu, is_lost: &Arc<AtomicBool>) -> Result<(), Failed> {
    let (instance, adapter) =
        crate::adapters::same_adapter(&gpu.adapter).ok_or("the adapter is gone")?;
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        // Blocks no larger than what is asked for here.
        memory_hints: wgpu::MemoryHints::MemoryUsage,
        ..Default::default()
    };
    let own = &Own::on(instance, &adapter, &descriptor)?;
    let lost = Arc::clone(is_lost);
    own.device.set_device_lost_callback(move |reason, _| {
        lost.store(reason == wgpu::DeviceLostReason::Unknown, Ordering::Relaxed);
    });
    let config = Config::new(D as u32, D as u32);
    let serving = Serving::new(own, &config)?;
    let before = serving.states(own)?;
    let small = Call::new(own, config.clone(), Shape::new(1, 40, 1))?;
    let expected = small.run(own)?;

    const MIB: u64 = 1 << 20;
    const TENSOR: u64 = 32 * MIB;
    let tokens = TENSOR / (4 * D as u64);
    let large = numbers(tokens as usize * D, 1);
    let shape = Shape::new(1, tokens as u32, 1);
    let run = || {
        let inputs = Inputs::new(&large, &large, &large);
        small.attention.run(&own.queue, &shape, inputs).map(drop)
    };
    // As large, and uploaded by a call that has no encoder.
    let with_weights = Config::new(256, 8).with_feature_map(FeatureMap::T2r { features: 32_768 });
    let weights = Weights::sample(&with_weights, 1)?.ok_or("a map without weights")?;
    let upload = || WeightsBuffer::new(&own.device, &with_weights, &weights);
    let uploaded = upload()?;
    let rewrite = || done(uploaded.write(&own.queue, &weights));
    run()?;
    let buffers = own.buffers()?;
    let mut refused = std::collections::BTreeSet::new();
    for tensors in 0..8 {
        let cut = Cut::new(tensors * TENSOR + TENSOR / 2)?;
        let result = run();
        // The largest pool that this config has within a binding of 128 MiB.
        let pool = StatePool::new(&own.device, &config, 1, 460_000).map(drop);
        // They are encoded in memory of the host, without which a program of Rust aborts.
        let weights = (tensors > 0).then(|| [upload().map(drop), rewrite()]);
        drop(cut);
        let mut note = |call: &str, result: &Result<(), Error>, must: Must| match (result, must) {
            (Err(error), Must::Fail | Must::Either) if refusal(error).is_some() => {
                refused.extend(refusal(error).map(|refusal| refusal.what.clone()));
                Ok(())
            }
            (Ok(()), Must::Succeed | Must::Either) => Ok(()),
            _ => Err(format!("room for {tensors} tensors, and {call} ends with {result:?}")),
        };
        note("run", &result, if tensors > 5 { Must::Either } else { Must::Fail })?;
        if let Some([new, write]) = &weights {
            // The weights and what is copied to them are two tensors; whether the driver takes the
            // second from memory that it has kept differs from run to run.
            let must = [Must::Fail, Must::Either, Must::Succeed][tensors.clamp(1, 3) as usize - 1];
            note("new weights", new, must)?;
            // wgpu keeps the source of its copy to new weights until the next submission.
            note("a write of weights", write, Must::Either)?;
        }
        if tensors == 0 && !matches!(pool, Err(PoolError::Device(_))) {
            return Err(format!("no room, and {pool:?}").into());
        }
        own.expect_buffers(buffers, &format!("room for {tensors} tensors"))?;
        if serving.states(own)? != before || small.run(own)? != expected {
            return Err(format!("room for {tensors} tensors, then other bits").into());
        }
    }
    println!("refused for want of memory: {refused:?}");
    if refused.len() < 3 {
        return Err(format!("only {refused:?} were ever refused").into());
    }
    rewrite()?;
    run()?;
    own.expect_nothing_uncaught()
}

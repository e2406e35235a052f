//! The time at which pipelines are compiled, and the driver's cache.

use libtest_mimic::Failed;
use linear_attention::wgpu::{self, Features};
use linear_attention::{Inputs, LinearAttention, Options, Shape, States};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("compile::prepare_compiles_for_bind", prepare_compiles_for_bind),
    ("compile::pipeline_cache", pipeline_cache),
];

fn prepare_compiles_for_bind(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let fresh = LinearAttention::new(&gpu.device, a.config().clone())?;
    let plan = fresh.plan(&Shape::new(1, 20, 1))?;
    fresh.prepare(&plan, States::Final)?;
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(20 * 16, salt));
    let inputs = Inputs::new(&q, &k, &v);
    let found = fresh.run(&gpu.queue, &Shape::new(1, 20, 1), inputs)?;
    let expected = a.run(&gpu.queue, &Shape::new(1, 20, 1), inputs)?;
    if found == expected { Ok(()) } else { Err("another result".into()) }
}

/// Pipelines are made with the caller's cache, and what comes out of it is right.
fn pipeline_cache(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    if !gpu.adapter.features().contains(Features::PIPELINE_CACHE) {
        return crate::runner::skip(format!("{} has no pipeline cache", gpu.name));
    }
    let (device, queue) =
        pollster::block_on(gpu.adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("linear_attention.tests.pipeline_cache"),
            required_features: Features::PIPELINE_CACHE,
            ..Default::default()
        }))?;
    let cache_of = |data: Option<&[u8]>| {
        // SAFETY: the data are none, or what `get_data` of this adapter's cache returned.
        unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("linear_attention.tests"),
                data,
                fallback: true,
            })
        }
    };
    let run = |cache: &wgpu::PipelineCache| {
        let options = Options::default().with_cache(cache);
        let attention = LinearAttention::with_options(&device, a.config().clone(), &options)?;
        let [q, k, v] = [1, 2, 3].map(|salt| numbers(40 * 16, salt));
        attention.run(&queue, &Shape::new(1, 40, 1), Inputs::new(&q, &k, &v))
    };
    let cache = cache_of(None);
    let first = run(&cache)?;
    // Drivers may leave it empty: llvmpipe has a cache of its own.
    let data = cache.get_data().ok_or("the cache has no data")?;
    let second = run(&cache_of(Some(&data)))?;
    if first == second { Ok(()) } else { Err("another result from the cache".into()) }
}

//! How long a compute pass takes.

use std::time::Instant;

use linear_attention::Readback;
use linear_attention::wgpu::{
    self, Buffer, BufferUsages, CommandEncoder, ComputePass, Device, Features, QuerySet, Queue,
};

use crate::failure::Failure;

/// Runs of a pass before the first that counts: caches fill, clocks rise.
const WARM_UPS: usize = 2;

/// Times passes on a device: by its own timestamps or, lacking those, by the wall clock
/// from submission to completion.
pub(crate) struct Timer<'a> {
    device: &'a Device,
    queue: &'a Queue,
    timestamps: Option<Timestamps>,
}

struct Timestamps {
    set: QuerySet,
    resolved: Buffer,
}

impl<'a> Timer<'a> {
    pub(crate) fn new(device: &'a Device, queue: &'a Queue) -> Self {
        let has_timestamps = device.features().contains(Features::TIMESTAMP_QUERY);
        let timestamps = has_timestamps.then(|| Timestamps {
            set: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("linear-attention.timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("linear-attention.timestamps"),
                size: 16,
                usage: BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            }),
        });
        Self { device, queue, timestamps }
    }

    /// What it measures with, to be printed.
    pub(crate) fn name(&self) -> &'static str {
        match self.timestamps {
            Some(_) => "the device's timestamps",
            None => "the wall clock, for the device has no timestamps",
        }
    }

    /// The median of `iterations` runs, in seconds.
    pub(crate) fn median(
        &self,
        iterations: usize,
        record: &dyn Fn(&mut ComputePass<'_>),
    ) -> Result<f64, Failure> {
        median(iterations, &|| self.pass(record))
    }

    /// The same by the wall clock for whatever is recorded, a copy of buffers for one.
    pub(crate) fn median_by_wall_clock(
        &self,
        iterations: usize,
        record: &dyn Fn(&mut CommandEncoder),
    ) -> Result<f64, Failure> {
        median(iterations, &|| {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            record(&mut encoder);
            self.by_wall_clock(encoder)
        })
    }

    fn by_wall_clock(&self, encoder: CommandEncoder) -> Result<f64, Failure> {
        let commands = encoder.finish();
        let start = Instant::now();
        self.queue.submit([commands]);
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .map_err(|error| Failure::Device(error.to_string()))?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn pass(&self, record: &dyn Fn(&mut ComputePass<'_>)) -> Result<f64, Failure> {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let timestamp_writes =
                self.timestamps.as_ref().map(|timestamps| wgpu::ComputePassTimestampWrites {
                    query_set: &timestamps.set,
                    beginning_of_pass_write_index: Some(0),
                    end_of_pass_write_index: Some(1),
                });
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: Some("linear-attention.timed"),
                timestamp_writes,
            });
            record(&mut pass);
        }
        let Some(timestamps) = &self.timestamps else {
            return self.by_wall_clock(encoder);
        };
        encoder.resolve_query_set(&timestamps.set, 0..2, &timestamps.resolved, 0);
        let readback = Readback::record(self.device, &mut encoder, &[&timestamps.resolved])?;
        self.queue.submit([encoder.finish()]);
        // The library reads f32; the bits are those of two u64.
        let words: Vec<f32> = readback.wait(self.device)?.into_iter().flatten().collect();
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&words);
        let elapsed = ticks[1].wrapping_sub(ticks[0]) as f64;
        Ok(elapsed * f64::from(self.queue.get_timestamp_period()) * 1e-9)
    }
}

/// The median of `iterations` times in seconds, after the warm-ups.
fn median(iterations: usize, once: &dyn Fn() -> Result<f64, Failure>) -> Result<f64, Failure> {
    for _ in 0..WARM_UPS {
        once()?;
    }
    let times: Result<Vec<f64>, _> = (0..iterations).map(|_| once()).collect();
    let mut times = times?;
    times.sort_by(f64::total_cmp);
    let median = f64::midpoint(times[(times.len() - 1) / 2], times[times.len() / 2]);
    if median > 0.0 {
        return Ok(median);
    }
    Err(Failure::Device("the device's clock does not advance".to_owned()))
}

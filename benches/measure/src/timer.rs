//! Times of compute passes.

use std::time::Instant;

use linear_attention::Readback;
use linear_attention::wgpu::{
    self, Buffer, BufferUsages, CommandEncoder, ComputePass, Device, Features, QuerySet, Queue,
};

use crate::MeasureError;

/// Runs of a pass before the first that counts: caches fill, clocks rise.
const WARM_UPS: usize = 2;

/// Times passes on a device: by its own timestamps or, lacking those, by the wall clock
/// from submission to completion.
#[derive(Debug)]
pub struct Timer<'a> {
    device: &'a Device,
    queue: &'a Queue,
    timestamps: Option<Timestamps>,
}

#[derive(Debug)]
struct Timestamps {
    set: QuerySet,
    resolved: Buffer,
}

impl<'a> Timer<'a> {
    /// For passes on this queue.
    #[must_use]
    pub fn new(device: &'a Device, queue: &'a Queue) -> Self {
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

    /// The source of its times, for people.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.timestamps {
            Some(_) => "the device's timestamps",
            None => "the wall clock, for the device has no timestamps",
        }
    }

    /// The device it times on.
    #[must_use]
    pub fn device(&self) -> &'a Device {
        self.device
    }

    /// The queue it submits to.
    #[must_use]
    pub fn queue(&self) -> &'a Queue {
        self.queue
    }

    /// The median of `iterations` runs, in seconds.
    ///
    /// # Errors
    ///
    /// The device failed, or its clock stands still.
    pub fn median(
        &self,
        iterations: usize,
        record: &dyn Fn(&mut ComputePass<'_>),
    ) -> Result<f64, MeasureError> {
        warm_median(iterations, &|| self.pass(record))
    }

    /// The same for passes that may take long: where a run takes more than a second, one counts,
    /// after one in which a driver may compile.
    ///
    /// # Errors
    ///
    /// As [`Timer::median`].
    pub fn brief_median(
        &self,
        iterations: usize,
        record: &dyn Fn(&mut ComputePass<'_>),
    ) -> Result<f64, MeasureError> {
        self.pass(record)?;
        let once = self.pass(record)?;
        if once > 1.0 { Ok(once) } else { self.median(iterations, record) }
    }

    /// The same by the wall clock, for anything recorded, such as a copy of buffers.
    ///
    /// # Errors
    ///
    /// As [`Timer::median`].
    pub fn median_by_wall_clock(
        &self,
        iterations: usize,
        record: &dyn Fn(&mut CommandEncoder),
    ) -> Result<f64, MeasureError> {
        warm_median(iterations, &|| {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            record(&mut encoder);
            self.by_wall_clock(encoder)
        })
    }

    /// Seconds from the submission of an encoder, which may be empty, to its completion.
    ///
    /// # Errors
    ///
    /// The device failed.
    pub fn by_wall_clock(&self, encoder: CommandEncoder) -> Result<f64, MeasureError> {
        let commands = encoder.finish();
        let start = Instant::now();
        self.queue.submit([commands]);
        self.device.poll(wgpu::PollType::wait_indefinitely()).map_err(MeasureError::Poll)?;
        Ok(start.elapsed().as_secs_f64())
    }

    fn pass(&self, record: &dyn Fn(&mut ComputePass<'_>)) -> Result<f64, MeasureError> {
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
        let ticks: Vec<u64> = readback.wait()?.concat();
        let elapsed = match ticks[..] {
            [begin, end] => end.wrapping_sub(begin) as f64,
            _ => return Err(MeasureError::Clock),
        };
        Ok(elapsed * f64::from(self.queue.get_timestamp_period()) * 1e-9)
    }
}

/// The median of `iterations` times in seconds, after the warm-ups.
fn warm_median(
    iterations: usize,
    once: &dyn Fn() -> Result<f64, MeasureError>,
) -> Result<f64, MeasureError> {
    for _ in 0..WARM_UPS {
        once()?;
    }
    let times: Result<Vec<f64>, _> = (0..iterations.max(1)).map(|_| once()).collect();
    let median = median(times?);
    if median > 0.0 { Ok(median) } else { Err(MeasureError::Clock) }
}

/// The middle of `times`, or the mean of the two in the middle; 0 where there is none.
pub(crate) fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    let at = |index: usize| times.get(index).copied().unwrap_or_default();
    f64::midpoint(at(times.len().saturating_sub(1) / 2), at(times.len() / 2))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn medians() {
        for (times, expected) in
            [(vec![], 0.0), (vec![3.0], 3.0), (vec![4.0, 1.0], 2.5), (vec![9.0, 1.0, 2.0], 2.0)]
        {
            assert_eq!(median(times), expected);
        }
    }
}

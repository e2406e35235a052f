//! Latencies beside the kernels: compilation, the first dispatch, recording.

use std::time::Instant;

use linear_attention::wgpu::Device;
use linear_attention::{Bound, LinearAttention};
use serde::{Deserialize, Serialize};

use crate::timer::median;

/// Calls of `record` of which the median counts.
const RECORDS: usize = 101;

/// First-use latency, and what each call costs the CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Latency {
    /// `LinearAttention::new` of an object of its own and `prepare` of the plan. The driver's
    /// cache is as it is: the first run on a machine takes longer.
    pub pipeline_ms: f64,
    /// From the first submission of the shape with that object to its completion.
    pub first_dispatch_ms: f64,
    /// One call of `record`, on the CPU.
    pub record_us: f64,
    /// `finish` of the encoder that holds that call and nothing else: wgpu validates and
    /// translates there what was recorded.
    pub finish_us: f64,
}

/// The medians of `record` and of `finish`, in seconds.
pub(crate) fn record(device: &Device, attention: &LinearAttention, bound: &Bound) -> [f64; 2] {
    let (mut records, mut finishes) = (Vec::new(), Vec::new());
    for _ in 0..RECORDS {
        let mut encoder = device.create_command_encoder(&Default::default());
        let start = Instant::now();
        attention.record(&mut encoder, bound);
        records.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        // Never submitted: dropped with its commands.
        drop(encoder.finish());
        finishes.push(start.elapsed().as_secs_f64());
    }
    [median(records), median(finishes)]
}

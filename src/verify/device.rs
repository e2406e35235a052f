//! One case on the device: poisoned buffers in, rows out.

use wgpu::BufferUsages;

use super::case::{Case, Drawn};
use super::compare::Row;
use crate::plan::F32_SIZE;
use crate::reference::{self, Output64, phi};
use crate::{Error, LinearAttention, Output, Plan, Readback, Stage, StateBinding, Tensors, Tuning};

/// Every tensor of a case on the device, and the scratch between its stages.
struct Buffers {
    q: wgpu::Buffer,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    initial: Option<[wgpu::Buffer; 2]>,
    out: wgpu::Buffer,
    mu: wgpu::Buffer,
    nu: wgpu::Buffer,
    scratch: wgpu::Buffer,
}

/// mu and nu of every segment, as scratch holds them.
type States = (Vec<f32>, Vec<f32>);

struct Run<'a> {
    device: &'a wgpu::Device,
    queue: &'a wgpu::Queue,
    attention: &'a LinearAttention,
    plan: Plan,
    drawn: Drawn,
}

pub(crate) fn check(
    device: &wgpu::Device,
    queue: &wgpu::Queue,
    attention: &LinearAttention,
    tuning: &Tuning,
    case: &Case,
    seed: u64,
) -> Vec<Row> {
    let made = Plan::with_tuning(&case.config, &case.shape, &device.limits(), tuning);
    let made = made.map_err(Error::from);
    let rows = made.and_then(|plan| {
        let drawn = case.draw(seed, plan.lens());
        Run { device, queue, attention, plan, drawn }.rows(case)
    });
    rows.unwrap_or_else(|error| vec![Row::failed(case, "whole", error.to_string())])
}

impl Run<'_> {
    fn rows(&self, case: &Case) -> Result<Vec<Row>, Error> {
        let inputs = self.drawn.inputs();
        let truth = reference::recurrent(&case.config, &case.shape, inputs)?;
        let mirror = reference::chunked_with_plan(&self.plan, inputs)?;
        let (found, _) = self.run(&Stage::ALL, None)?;
        let mut rows = compare(case, "whole", &truth, &mirror, &found);
        if self.plan.segments() == 1 {
            return Ok(rows);
        }

        let (state_mu, state_nu) = reference::segment_state(&self.plan, inputs);
        let (_, scratch) = self.run(&[Stage::SegmentState], None)?;
        let (truth_mu, truth_nu) = self.segment_state_truth();
        let name = Stage::SegmentState.name();
        // The last segment's place is nobody's in this stage, and must stay poisoned.
        let mu = self.without_last_segment(&scratch.0);
        let nu = self.without_last_segment(&scratch.1);
        let (m, n) = (self.without_last_segment(&state_mu), self.without_last_segment(&state_nu));
        rows.push(Row::new(case, name, "mu", &self.without_last_segment(&truth_mu), &m, &mu));
        rows.push(Row::new(case, name, "nu", &self.without_last_segment(&truth_nu), &n, &nu));

        let (mut scan_mu, mut scan_nu) = (state_mu.clone(), state_nu.clone());
        reference::state_scan(&self.plan, inputs, &mut scan_mu, &mut scan_nu);
        let (_, scratch) = self.run(&[Stage::StateScan], Some((&state_mu, &state_nu)))?;
        let name = Stage::StateScan.name();
        let initial = inputs.initial;
        let truth_mu = self.scan_truth(&state_mu, initial.map(|i| i.mu));
        let truth_nu = self.scan_truth(&state_nu, initial.map(|i| i.nu));
        rows.push(Row::new(case, name, "mu", &truth_mu, &scan_mu, &scratch.0));
        rows.push(Row::new(case, name, "nu", &truth_nu, &scan_nu, &scratch.1));

        let (found, _) = self.run(&[Stage::SegmentOutput], Some((&scan_mu, &scan_nu)))?;
        rows.extend(compare(case, Stage::SegmentOutput.name(), &truth, &mirror, &found));
        Ok(rows)
    }

    /// Runs some stages on poisoned buffers, with `scratch` put there first if it is given.
    fn run(
        &self,
        stages: &[Stage],
        scratch: Option<(&[f32], &[f32])>,
    ) -> Result<(Output, States), Error> {
        let buffers = self.buffers(scratch);
        let tensors = Tensors {
            initial: buffers.initial.as_ref().map(|[mu, nu]| StateBinding {
                mu: mu.as_entire_buffer_binding(),
                nu: nu.as_entire_buffer_binding(),
            }),
            final_: Some(StateBinding {
                mu: buffers.mu.as_entire_buffer_binding(),
                nu: buffers.nu.as_entire_buffer_binding(),
            }),
            ..Tensors::new(&buffers.q, &buffers.k, &buffers.v, &buffers.out)
        };
        let scratch = buffers.scratch.as_entire_buffer_binding();
        let bound = self.attention.bind(self.device, &self.plan, &tensors, scratch)?;
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor {
            label: Some("linear_attention.verify"),
        });
        {
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
            for stage in stages {
                self.attention.dispatch_stage(&mut pass, &bound, *stage);
            }
        }
        let sources = [&buffers.out, &buffers.mu, &buffers.nu, &buffers.scratch];
        let readback = Readback::record(self.device, &mut encoder, &sources)?;
        self.queue.submit([encoder.finish()]);
        let mut tensors = readback.wait(self.device)?.into_iter();
        let mut next = || tensors.next().unwrap_or_default();
        let output = Output::new(next(), next(), next());
        let scratch = next();
        let part = |range: std::ops::Range<u64>| {
            scratch[(range.start / F32_SIZE) as usize..(range.end / F32_SIZE) as usize].to_vec()
        };
        Ok((output, (part(self.plan.scratch_mu()), part(self.plan.scratch_nu()))))
    }

    fn buffers(&self, scratch: Option<(&[f32], &[f32])>) -> Buffers {
        let buffer = |label, data: &[f32]| {
            let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: F32_SIZE * data.len() as u64,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            self.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
            buffer
        };
        let poison = |label, len: u64| buffer(label, &vec![f32::NAN; len as usize]);
        let lens = self.plan.lens();
        let mut scratch_data =
            vec![f32::NAN; (self.plan.scratch_size() / F32_SIZE).max(1) as usize];
        if let Some((mu, nu)) = scratch {
            let at = (self.plan.scratch_nu().start / F32_SIZE) as usize;
            scratch_data[..mu.len()].copy_from_slice(mu);
            scratch_data[at..at + nu.len()].copy_from_slice(nu);
        }
        Buffers {
            q: buffer("q", &self.drawn.q),
            k: buffer("k", &self.drawn.k),
            v: buffer("v", &self.drawn.v),
            initial: self
                .drawn
                .initial
                .as_ref()
                .map(|(mu, nu)| [buffer("initial mu", mu), buffer("initial nu", nu)]),
            out: poison("out", lens.o),
            mu: poison("final mu", lens.mu),
            nu: poison("final nu", lens.nu),
            scratch: buffer("scratch", &scratch_data),
        }
    }

    /// What each segment adds, in f64, straight from the sums.
    fn segment_state_truth(&self) -> (Vec<f64>, Vec<f64>) {
        let (config, shape) = (self.plan.config(), self.plan.shape());
        let [batch, seq_len, kv_heads, key_dim, value_dim, segments] = [
            shape.batch,
            shape.seq_len,
            shape.kv_heads,
            config.key_dim,
            config.value_dim,
            self.plan.segments(),
        ]
        .map(|size| size as usize);
        let segment_len = self.plan.segment_len() as usize;
        let mut mu = vec![0.0; self.plan.lens().mu as usize * segments];
        let mut nu = vec![0.0; self.plan.lens().nu as usize * segments];
        for n in 0..batch {
            for t in 0..seq_len {
                for g in 0..kv_heads {
                    let row = (n * seq_len + t) * kv_heads + g;
                    let state = (n * segments + t / segment_len) * kv_heads + g;
                    for f in 0..key_dim {
                        let k = f64::from(self.drawn.k[row * key_dim + f]);
                        let k = phi(config.feature_map, k);
                        nu[state * key_dim + f] += k;
                        for c in 0..value_dim {
                            mu[(state * key_dim + f) * value_dim + c] +=
                                k * f64::from(self.drawn.v[row * value_dim + c]);
                        }
                    }
                }
            }
        }
        (mu, nu)
    }

    /// What each segment starts from, in f64, of states given in f32.
    fn scan_truth(&self, added: &[f32], initial: Option<&[f32]>) -> Vec<f64> {
        let segments = self.plan.segments() as usize;
        let len = added.len() / segments / self.plan.shape().batch as usize;
        let mut starts = vec![0.0; added.len()];
        for (n, sequence) in starts.chunks_mut(segments * len).enumerate() {
            for i in 0..len {
                let mut sum = initial.map_or(0.0, |initial| f64::from(initial[n * len + i]));
                for s in 0..segments {
                    sequence[s * len + i] = sum;
                    sum += f64::from(added[(n * segments + s) * len + i]);
                }
            }
        }
        starts
    }

    fn without_last_segment<T: Copy>(&self, states: &[T]) -> Vec<T> {
        let segments = self.plan.segments() as usize;
        let len = states.len() / segments / self.plan.shape().batch as usize;
        states
            .chunks(segments * len)
            .flat_map(|sequence| &sequence[..(segments - 1) * len])
            .copied()
            .collect()
    }
}

fn compare(
    case: &Case,
    stage: &'static str,
    truth: &Output64,
    mirror: &Output,
    found: &Output,
) -> Vec<Row> {
    vec![
        Row::new(case, stage, "o", &truth.o, &mirror.o, &found.o),
        Row::new(case, stage, "final mu", &truth.mu, &mirror.mu, &found.mu),
        Row::new(case, stage, "final nu", &truth.nu, &mirror.nu, &found.nu),
    ]
}

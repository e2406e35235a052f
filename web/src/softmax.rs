//! Causal softmax attention, which linear attention is compared with: a kernel for devices, and
//! loops for the CPU. Both go through the keys once and keep the largest exponent so far (Milakov
//! and Gimelshein 2018), as FlashAttention does.

use linear_attention::wgpu;

use crate::speed::{HEADS, WIDTH};

/// The kernel, for T tokens.
pub(crate) struct Softmax {
    pipeline: wgpu::ComputePipeline,
    bind_group: wgpu::BindGroup,
    tokens: u32,
}

impl Softmax {
    /// Of q, k, v and o `[T,H,64]`.
    pub(crate) fn new(device: &wgpu::Device, tensors: [&wgpu::Buffer; 4], tokens: u32) -> Self {
        let module = device.create_shader_module(wgpu::include_wgsl!("../shaders/softmax.wgsl"));
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("softmax"),
            layout: None,
            module: &module,
            entry_point: None,
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &[("TOKENS", f64::from(tokens)), ("HEADS", HEADS as f64)],
                ..wgpu::PipelineCompilationOptions::default()
            },
            cache: None,
        });
        let resources = tensors.map(wgpu::Buffer::as_entire_binding);
        let entry = |(binding, resource)| wgpu::BindGroupEntry { binding, resource };
        let entries: Vec<_> = (0..).zip(resources).map(entry).collect();
        let bind_group = device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some("softmax"),
            layout: &pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        Self { pipeline, bind_group, tokens }
    }

    pub(crate) fn record(&self, encoder: &mut wgpu::CommandEncoder) {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.bind_group, &[]);
        pass.dispatch_workgroups(self.tokens.div_ceil(64), HEADS as u32, 1);
    }
}

/// The same on the CPU.
pub(crate) fn softmax([q, k, v]: [&[f32]; 3], o: &mut [f32]) {
    let row = |x: &[f32], t: usize, head: usize| -> [f32; WIDTH] {
        let mut row = [0.0; WIDTH];
        row.copy_from_slice(&x[(t * HEADS + head) * WIDTH..][..WIDTH]);
        row
    };
    let scale = (WIDTH as f32).sqrt().recip();
    for (at, o) in o.chunks_mut(WIDTH).enumerate() {
        let (i, head) = (at / HEADS, at % HEADS);
        let query = row(q, i, head).map(|x| x * scale);
        let (mut sum, mut largest, mut total) = ([0.0f32; WIDTH], f32::NEG_INFINITY, 0.0);
        for j in 0..=i {
            let (key, value) = (row(k, j, head), row(v, j, head));
            // Sixteen sums, which the compiler makes vectors.
            let mut lanes = [0.0f32; 16];
            for (query, key) in query.as_chunks::<16>().0.iter().zip(key.as_chunks::<16>().0) {
                for lane in 0..16 {
                    lanes[lane] += query[lane] * key[lane];
                }
            }
            let logit: f32 = lanes.iter().sum();
            if logit > largest {
                let factor = (largest - logit).exp();
                largest = logit;
                total *= factor;
                sum.iter_mut().for_each(|sum| *sum *= factor);
            }
            let weight = (logit - largest).exp();
            total += weight;
            for (sum, value) in sum.iter_mut().zip(&value) {
                *sum += weight * value;
            }
        }
        for (o, sum) in o.iter_mut().zip(&sum) {
            *o = sum / total;
        }
    }
}

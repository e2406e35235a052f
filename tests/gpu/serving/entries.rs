//! Entries from the device, and from a caller: invalid ones, and those that shaders wrote.

use libtest_mimic::Failed;
use linear_attention::error::PoolError;
use linear_attention::serve::{Entry, StatePool};
use linear_attention::shape::PackedLimits;
use linear_attention::tuning::Tuning;
use linear_attention::wgpu::{self, DeviceType};
use linear_attention::{
    Config, Inputs, LinearAttention, Options, Readback, ShaderChecks, Shape, reference,
};

use super::super::properties::{close, numbers};
use super::{Caller, D, encoder, filled_pool, is, state, state_of, states};
use crate::adapters::Gpu;

/// Entries that cannot be: each is counted and leaves its state and its rows as they were, and
/// the others are computed as if it were not there. Shaders that check themselves and shaders
/// that do not, both layouts, widths of fours and others, one head and several.
pub(super) fn impossible_entries(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    use DeviceType::{Cpu, Other};
    use ShaderChecks::{Checked, Unchecked};
    let fours = (1, 1, Config::new(16, 16));
    let odd = (4, 2, Config::new(5, 7));
    // Every pair of a config, a layout and checks, in half of all triples.
    for ((heads, kv_heads, config), device_type, checks) in [
        (&fours, Other, Checked),
        (&fours, Cpu, Unchecked),
        (&odd, Other, Unchecked),
        (&odd, Cpu, Checked),
    ] {
        let limits = gpu.device.limits();
        let tuning = Tuning::new(config, &limits, device_type)?;
        let options = Options::default().with_tuning(tuning).with_checks(checks);
        let a = LinearAttention::with_options(&gpu.device, config.clone(), &options)?;
        impossible(gpu, &a, *heads, *kv_heads).map_err(|error| {
            let message = error.message().unwrap_or_default();
            format!("{device_type:?} {checks:?} {heads} heads: {message}")
        })?;
    }
    Ok(())
}

pub(super) fn impossible(
    gpu: &Gpu,
    a: &LinearAttention,
    heads: u32,
    kv_heads: u32,
) -> Result<(), Failed> {
    const NONE: u32 = u32::MAX;
    let long = 40u32;
    /// max_len; cu_seqlens; slots; the entries that are ignored.
    type Case = (u32, [u32; 4], [u32; 3], &'static [usize]);
    let cases: [Case; 11] = [
        (4, [0, 3, 4, 8], [0, 1, 2], &[]),
        (4, [0, 3, 4, 8], [0, 5, 2], &[1]),
        (4, [0, 3, 4, 8], [1, 0, 1], &[0, 2]),
        (4, [0, 3, 4, 8], [1, NONE, 4_000_000], &[2]),
        (4, [1, 3, 4, 8], [0, 1, 2], &[0]),
        (4, [0, 4, 2, 5], [0, 1, 2], &[1, 2]),
        (4, [0, 3, 9, 8], [0, 1, 2], &[1, 2]),
        (4, [0, 3, 8, NONE], [0, 1, 2], &[1, 2]),
        // The first interval is all tokens, and longer than a sequence may be.
        (4, [4, 1 << 31, 5, 8], [0, 1, 2], &[0, 1, 2]),
        (long, [0, 50, 20, 70], [0, 1, 2], &[0, 1, 2]),
        (long, [0, 20, 20, 60], [3, 3, 1], &[0, 1]),
    ];
    let config = a.config();
    let (k_dim, v_dim) = (config.key_dim as usize, config.value_dim as usize);
    let (h, g) = (heads as usize, kv_heads as usize);
    let len = g * (k_dim * v_dim + k_dim);
    let state_of = |slot: usize| -> Vec<f32> {
        numbers(len, 100 + slot as u32).iter().map(|x| x.abs() + 0.5).collect()
    };
    // One plan and one binding for each length, whatever the entries say.
    for max_len in [4, long] {
        let tokens = if max_len == long { 80usize } else { 8 };
        let pool = StatePool::new(&gpu.device, config, kv_heads, 4)?;
        let shape = Shape::packed_up_to(
            PackedLimits { sequences: 3, tokens: tokens as u32, max_len },
            heads,
        )
        .with_kv_heads(kv_heads)
        .with_slots(4);
        let caller = Caller::new(gpu, a, &pool, &shape, false)?;
        let q = numbers(tokens * h * k_dim, 1);
        let k = numbers(tokens * g * k_dim, 2);
        let v = numbers(tokens * g * v_dim, 3);
        for (_, cu_seqlens, slots, ignored) in cases.iter().filter(|case| case.0 == max_len) {
            for slot in 0..4 {
                let at = (4 * len * slot) as u64;
                let state = state_of(slot);
                gpu.queue.write_buffer(pool.binding().buffer, at, bytemuck::cast_slice(&state));
            }
            let words = [&cu_seqlens[..], slots].concat();
            gpu.queue.write_buffer(&caller.sequences, 4, bytemuck::cast_slice(&words));
            let (o, status) = caller.run(gpu, a, [&q, &k, &v])?;
            let name = format!("{cu_seqlens:?} {slots:?}");
            is(status == ignored.len() as u32, &format!("{name}: status {status}"))?;

            let after = states(gpu, &pool)?;
            let mut written = vec![false; tokens];
            let mut untouched = vec![0, 1, 2, 3];
            for n in (0..3).filter(|n| !ignored.contains(n) && slots[*n] != NONE) {
                let rows = cu_seqlens[n] as usize..cu_seqlens[n + 1] as usize;
                let slot = slots[n] as usize;
                untouched.retain(|other| *other != slot);
                written[rows.clone()].fill(true);
                if rows.is_empty() {
                    is(after[slot * len..][..len] == state_of(slot), "an empty sequence")?;
                    continue;
                }
                let of = |x: &'_ [f32], row: usize| x[rows.start * row..rows.end * row].to_vec();
                let (q, k, v) = (of(&q, h * k_dim), of(&k, g * k_dim), of(&v, g * v_dim));
                let before = state_of(slot);
                let (mu, nu) = before.split_at(g * k_dim * v_dim);
                let shape = Shape::new(1, rows.len() as u32, heads).with_kv_heads(kv_heads);
                let inputs = Inputs::new(&q, &k, &v).with_initial_state(mu, nu);
                let truth = reference::recurrent(config, &shape, inputs)?;
                let f32s = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
                close(&name, &f32s(&truth.o), &of(&o, h * v_dim))?;
                let truth = [f32s(&truth.mu), f32s(&truth.nu)].concat();
                close(&name, &truth, &after[slot * len..][..len])?;
            }
            for slot in untouched {
                let is_as_it_was = after[slot * len..][..len] == state_of(slot);
                is(is_as_it_was, &format!("{name}: state {slot} changed"))?;
            }
            for (row, _) in written.iter().enumerate().filter(|(_, written)| !**written) {
                let is_zero = o[row * h * v_dim..][..h * v_dim].iter().all(|x| *x == 0.0);
                is(is_zero, &format!("{name}: row {row} is not zero"))?;
            }
        }
    }
    Ok(())
}

/// Steps with entries of their own in one submission: each reads those that were recorded before
/// it.
pub(super) fn several_steps_in_one_submission(
    gpu: &Gpu,
    a: &LinearAttention,
) -> Result<(), Failed> {
    let (pool, slots) = filled_pool(gpu, a, 3)?;
    let limits = PackedLimits { sequences: 2, tokens: 4, max_len: 4 };
    let shape = Shape::packed_up_to(limits, 1).with_slots(3);
    let caller = Caller::new(gpu, a, &pool, &shape, true)?;
    let x: [Vec<f32>; 3] = [1, 2, 3].map(|salt| numbers(4 * D, salt));
    for (x, buffer) in x.iter().zip(&caller.tensors) {
        gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(x));
    }
    let batch = caller.batch.as_ref().ok_or("the host tells")?;
    let mut encoder = encoder(gpu);
    // Tokens 0 and 1 to the first slot and 2 to the second; then 0 to 2 to the second; then none.
    for entries in [
        vec![Entry::new(slots[0], 2), Entry::new(slots[1], 1)],
        vec![Entry::new(slots[1], 3)],
        vec![],
    ] {
        batch.record_write(&mut encoder, &pool, &entries, &[])?;
        a.record(&mut encoder, &caller.bound);
    }
    let refused = batch.record_write(&mut encoder, &pool, &[Entry::new(slots[0], 5)], &[]);
    is(matches!(refused, Err(PoolError::Entries { .. })), "five tokens for four")?;
    gpu.queue.submit([encoder.finish()]);
    let found = states(gpu, &pool)?;
    let first = (slots[0], vec![0..1, 1..2]);
    for (slot, pieces) in [first, (slots[1], vec![2..3, 0..3])] {
        let of = |x: &[f32]| -> Vec<f32> {
            pieces.iter().flat_map(|piece| &x[piece.start * D..piece.end * D]).copied().collect()
        };
        let [q, k, v] = [of(&x[0]), of(&x[1]), of(&x[2])];
        let before = state_of(slot.index());
        let (mu, nu) = before.split_at(D * D);
        let shape = Shape::new(1, (q.len() / D) as u32, 1);
        let inputs = Inputs::new(&q, &k, &v).with_initial_state(mu, nu);
        let truth = reference::recurrent(a.config(), &shape, inputs)?;
        let truth: Vec<f32> = truth.mu.iter().chain(&truth.nu).map(|x| *x as f32).collect();
        close("a state", &truth, state(&found, slot))?;
    }
    is(state(&found, slots[2]) == state_of(slots[2].index()), "a slot of no step")
}

/// The host never learns which slots and how many tokens: a dispatch of the caller's writes them,
/// in the encoder in which they are used.
pub(super) fn told_by_the_device(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let (pool, handles) = filled_pool(gpu, a, 8)?;
    let shape =
        Shape::packed_up_to(PackedLimits { sequences: 4, tokens: 8, max_len: 2 }, 1).with_slots(8);
    let caller = Caller::new(gpu, a, &pool, &shape, false)?;
    let wgsl = "@group(0) @binding(0) var<storage, read_write> sequences: array<u32>;
        @compute @workgroup_size(4) fn choose(@builtin(local_invocation_index) n: u32) {
            // 0, 2, 3, 5, 6: sequences of two tokens and of one.
            sequences[1u + n] = (3u * n + 1u) / 2u;
            if (n == 0u) { sequences[5] = 6u; }
            sequences[6u + n] = 7u - 2u * n;
        }";
    let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: Some("choose"),
        source: wgpu::ShaderSource::Wgsl(wgsl.into()),
    });
    let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: Some("choose"),
        layout: None,
        module: &module,
        entry_point: Some("choose"),
        compilation_options: Default::default(),
        cache: None,
    });
    let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: Some("choose"),
        layout: &pipeline.get_bind_group_layout(0),
        entries: &[wgpu::BindGroupEntry {
            binding: 0,
            resource: caller.sequences.as_entire_binding(),
        }],
    });
    let [q, k, v] = [1, 2, 3].map(|salt| numbers(8 * D, salt));
    for (buffer, data) in caller.tensors.iter().zip([&q, &k, &v]) {
        gpu.queue.write_buffer(buffer, 0, bytemuck::cast_slice(data));
    }
    let mut encoder = encoder(gpu);
    {
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(1, 1, 1);
        a.dispatch(&mut pass, &caller.bound);
    }
    let readback = Readback::record(&gpu.device, &mut encoder, &[&caller.tensors[3]])?;
    gpu.queue.submit([encoder.finish()]);
    let o = readback.wait()?.concat();
    let after = states(gpu, &pool)?;
    for (n, tokens) in [0..2, 2..3, 3..5, 5..6].into_iter().enumerate() {
        let slot = handles[7 - 2 * n];
        let before = state_of(slot.index());
        let (mu, nu) = before.split_at(D * D);
        let rows = tokens.start * D..tokens.end * D;
        let inputs = Inputs::new(&q[rows.clone()], &k[rows.clone()], &v[rows.clone()]);
        let inputs = inputs.with_initial_state(mu, nu);
        let shape = Shape::new(1, tokens.len() as u32, 1);
        let truth = reference::mirror(a.config(), &shape, inputs)?;
        close("o", &truth.o, &o[rows])?;
        close("state", &[truth.mu, truth.nu].concat(), state(&after, slot))?;
    }
    Ok(())
}

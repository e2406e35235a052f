//! Bindings: one arena, states in place, and everything that `bind` must refuse.

use libtest_mimic::Failed;
use linear_attention::error::BindError;
use linear_attention::plan::MAX_DECODE_LEN;
use linear_attention::serve::Sequences;
use linear_attention::state::{join_states, split_states};
use linear_attention::tuning::Layout;
use linear_attention::wgpu::{self, BufferBinding, BufferUsages};
use linear_attention::{Config, Inputs, LinearAttention, Plan, Readback, Shape, Tensors};

use super::Test;
use super::properties::numbers;
use crate::adapters::Gpu;

pub(crate) const TESTS: &[(&str, Test)] = &[
    ("bind::one_arena", one_arena),
    ("bind::state_in_place", state_in_place),
    ("bind::shared_state", shared_state),
    ("bind::refuses", refuses),
    ("bind::other_device", other_device),
    ("bind::compiles_on_its_own_device", compiles_on_its_own_device),
    ("bind::folded_grid", folded_grid),
    ("bind::send_and_sync", send_and_sync),
];

const D: u64 = 16;
const T: u64 = 20;
const LEN: u64 = T * D * 4;

fn buffer(gpu: &Gpu, size: u64, usage: BufferUsages) -> wgpu::Buffer {
    gpu.device.create_buffer(&wgpu::BufferDescriptor {
        label: Some("test"),
        size,
        usage,
        mapped_at_creation: false,
    })
}

pub(crate) fn tensor(gpu: &Gpu, data: &[f32]) -> wgpu::Buffer {
    let usage = BufferUsages::STORAGE | BufferUsages::COPY_DST | BufferUsages::COPY_SRC;
    let buffer = buffer(gpu, 4 * data.len() as u64, usage);
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(data));
    buffer
}

fn part(buffer: &wgpu::Buffer, offset: u64, size: u64) -> BufferBinding<'_> {
    BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) }
}

/// o from buffers bound by hand, each its own.
pub(crate) fn run_bound(
    gpu: &Gpu,
    a: &LinearAttention,
    shape: &Shape,
    inputs: [&[f32]; 3],
) -> Result<Vec<f32>, Failed> {
    let [q, k, v] = inputs.map(|data| tensor(gpu, data));
    let plan = a.plan(shape)?;
    let out = tensor(gpu, &vec![f32::NAN; plan.lens().o as usize]);
    let scratch = tensor(gpu, &vec![f32::NAN; plan.scratch_size() as usize / 4 + 1]);
    let tensors = Tensors::new(&q, &k, &v, &out);
    let bound = a.bind(&gpu.device, &plan, &tensors, scratch.as_entire_buffer_binding())?;
    submit(gpu, a, &bound, &out)
}

pub(crate) fn submit(
    gpu: &Gpu,
    a: &LinearAttention,
    bound: &linear_attention::Bound,
    from: &wgpu::Buffer,
) -> Result<Vec<f32>, Failed> {
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    a.record(&mut encoder, bound);
    let readback = Readback::record(&gpu.device, &mut encoder, &[from])?;
    gpu.queue.submit([encoder.finish()]);
    Ok(readback.wait(&gpu.device)?.concat())
}

fn one_arena(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let [q, k, v] = [1, 2, 3].map(|salt| numbers((T * D) as usize, salt));
    let shape = Shape::new(1, T as u32, 1);
    let expected = a.run(&gpu.device, &gpu.queue, &shape, Inputs::new(&q, &k, &v))?;
    let stride = LEN.next_multiple_of(256);
    let mut data = vec![f32::NAN; (stride * 8 / 4) as usize];
    for (slot, x) in [&q, &k, &v].into_iter().enumerate() {
        let at = (slot as u64 * stride / 4) as usize;
        data[at..at + x.len()].copy_from_slice(x);
    }
    let arena = tensor(gpu, &data);
    let at = |slot: u64, size| part(&arena, slot * stride, size);
    let plan = a.plan(&shape)?;
    let tensors = Tensors {
        q: at(0, LEN),
        k: at(1, LEN),
        v: at(2, LEN),
        out: at(3, LEN),
        initial: None,
        final_: Some(at(4, (D * D + D) * 4)),
        pool: None,
        sequences: None,
        weights: None,
    };
    let bound = a.bind(&gpu.device, &plan, &tensors, at(6, plan.scratch_size().max(4)))?;
    let found = submit(gpu, a, &bound, &arena)?;
    let from = |slot: u64| (slot * stride / 4) as usize;
    let state = [expected.mu, expected.nu].concat();
    let same = found[from(3)..from(3) + expected.o.len()] == expected.o
        && found[from(4)..from(4) + state.len()] == state;
    if !same {
        return Err(Failed::from("not what separate buffers give"));
    }
    if found[from(3) + expected.o.len()..from(4)].iter().any(|x| !x.is_nan()) {
        return Err(Failed::from("written beyond the tensor"));
    }
    Ok(())
}

fn state_in_place(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // A short run, one segment and several: all carry the state, by different ways.
    for (t, segment_len) in [(5usize, 16_384), (20, 16_384), (400, 100)] {
        let shape = Shape::new(2, t as u32, 1);
        let [q, k, v] = [1, 2, 3].map(|salt| numbers(2 * t * 16, salt));
        let mu = numbers(512, 4);
        let nu: Vec<f32> = numbers(32, 5).iter().map(|x| x.abs() + 1.0).collect();
        let inputs = Inputs::new(&q, &k, &v).with_initial(&mu, &nu);
        let truth = linear_attention::reference::recurrent(a.config(), &shape, inputs)?;

        let mut tuning = *a.tuning();
        tuning.min_segment_len = u32::MAX;
        tuning.max_segment_len = segment_len;
        let plan = Plan::with_tuning(a.config(), &shape, &gpu.device.limits(), &tuning)?;
        let states = tensor(gpu, &join_states(2, &mu, &nu));
        let [q, k, v] = [&q, &k, &v].map(|data| tensor(gpu, data));
        let out = tensor(gpu, &vec![f32::NAN; plan.lens().o as usize]);
        let scratch = tensor(gpu, &vec![f32::NAN; plan.scratch_size() as usize / 4 + 1]);
        let tensors = Tensors {
            initial: Some(states.as_entire_buffer_binding()),
            final_: Some(states.as_entire_buffer_binding()),
            ..Tensors::new(&q, &k, &v, &out)
        };
        let bound = a.bind(&gpu.device, &plan, &tensors, scratch.as_entire_buffer_binding())?;
        let f32s = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        super::properties::close("o", &f32s(&truth.o), &submit(gpu, a, &bound, &out)?)?;
        // The submission above has updated the state once.
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let readback = Readback::record(&gpu.device, &mut encoder, &[&states])?;
        gpu.queue.submit([encoder.finish()]);
        let (mu, nu) = split_states(2, mu.len(), &readback.wait(&gpu.device)?[0]);
        super::properties::close("mu", &f32s(&truth.mu), &mu)?;
        super::properties::close("nu", &f32s(&truth.nu), &nu)?;
    }
    Ok(())
}

/// Several workgroups that read one state must not update it in place, and `run`, which
/// has buffers of its own, must be right with it.
fn shared_state(gpu: &Gpu, _: &LinearAttention) -> Result<(), Failed> {
    let config = Config::new(32, 32);
    let a = LinearAttention::new(&gpu.device, config.clone())?;
    let shape = Shape::new(4, 64, 64).with_kv_heads(1);
    let [q, k, v] =
        [(64, 1), (1, 2), (1, 3)].map(|(heads, salt)| numbers(4 * 64 * heads * 32, salt));
    let mu = numbers(4 * 32 * 32, 4);
    let nu: Vec<f32> = numbers(4 * 32, 5).iter().map(|x| x.abs() + 1.0).collect();
    let inputs = Inputs::new(&q, &k, &v).with_initial(&mu, &nu);
    let found = a.run(&gpu.device, &gpu.queue, &shape, inputs)?;
    let truth = linear_attention::reference::recurrent(&config, &shape, inputs)?;
    let truth: Vec<f32> = truth.o.iter().map(|x| *x as f32).collect();
    super::properties::close("o", &truth, &found.o)?;

    let mut tuning = *a.tuning();
    tuning.min_segment_len = u32::MAX;
    let plan = Plan::with_tuning(&config, &shape, &gpu.device.limits(), &tuning)?;
    let states = tensor(gpu, &join_states(4, &mu, &nu));
    let [q, k, v] = [&q, &k, &v].map(|data| tensor(gpu, data));
    let out = tensor(gpu, &vec![f32::NAN; plan.lens().o as usize]);
    let tensors = Tensors {
        initial: Some(states.as_entire_buffer_binding()),
        final_: Some(states.as_entire_buffer_binding()),
        ..Tensors::new(&q, &k, &v, &out)
    };
    match a.bind(&gpu.device, &plan, &tensors, out.as_entire_buffer_binding()) {
        Err(BindError::InPlace { actual }) if actual > 1 => Ok(()),
        other => Err(Failed::from(format!("{other:?} for a state that many workgroups read"))),
    }
}

fn refuses(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let storage = BufferUsages::STORAGE;
    let [q, k, v, out] = [0; 4].map(|_| buffer(gpu, LEN, storage));
    let large = buffer(gpu, 4 * LEN, storage);
    let uniform = buffer(gpu, LEN, BufferUsages::UNIFORM);
    let small = buffer(gpu, LEN - 4, storage);
    let plan = a.plan(&Shape::new(1, T as u32, 1))?;
    let align = u64::from(gpu.device.limits().min_storage_buffer_offset_alignment);
    let good = Tensors::new(&q, &k, &v, &out);
    let state_size = (D * D + D) * 4;
    let with = |edit: &dyn Fn(&mut Tensors<'_>)| {
        let mut tensors = good.clone();
        // The closure's tensors may borrow for as long as the good ones.
        edit(&mut tensors);
        a.bind(&gpu.device, &plan, &tensors, large.as_entire_buffer_binding()).err()
    };
    let mut cases: Vec<(Option<BindError>, BindError)> = vec![(
        a.bind(
            &gpu.device,
            &plan,
            &Tensors { q: uniform.as_entire_buffer_binding(), ..good.clone() },
            large.as_entire_buffer_binding(),
        )
        .err(),
        BindError::Usage { tensor: "q", actual: format!("{:?}", BufferUsages::UNIFORM) },
    )];
    let mut case = |tensors: Tensors<'_>, expected| {
        let found = a.bind(&gpu.device, &plan, &tensors, large.as_entire_buffer_binding());
        cases.push((found.err(), expected));
    };
    case(
        Tensors { k: small.as_entire_buffer_binding(), ..good.clone() },
        BindError::TooSmall { tensor: "k", required: LEN, actual: LEN - 4 },
    );
    case(
        Tensors { v: part(&large, 4, LEN), ..good.clone() },
        BindError::Misaligned { tensor: "v", required: align, actual: 4 },
    );
    case(
        Tensors { out: part(&large, 256 * 20, 4 * LEN), ..good.clone() },
        BindError::BeyondBuffer { tensor: "out", required: 4 * LEN, actual: 256 * 20 + 4 * LEN },
    );
    case(
        Tensors { out: q.as_entire_buffer_binding(), ..good.clone() },
        BindError::Overlap { first: "q", second: "out", bytes: LEN },
    );
    case(
        Tensors {
            initial: Some(part(&large, 256, state_size)),
            final_: Some(part(&large, 0, state_size)),
            ..good.clone()
        },
        BindError::Overlap { first: "final", second: "initial", bytes: state_size - 256 },
    );
    case(
        Tensors { pool: Some(part(&large, 0, state_size)), ..good.clone() },
        BindError::Unexpected { tensor: "pool" },
    );
    case(
        Tensors { sequences: Some(Sequences::Device(part(&large, 0, 64))), ..good.clone() },
        BindError::Unexpected { tensor: "sequences" },
    );
    let other = Plan::with_tuning(
        &Config::new(8, 8),
        &Shape::new(1, 1, 1),
        &gpu.device.limits(),
        a.tuning(),
    );
    cases.push((
        a.bind(&gpu.device, &other?, &good, large.as_entire_buffer_binding()).err(),
        BindError::Plan { what: "config" },
    ));
    for (found, expected) in cases {
        if found.as_ref() != Some(&expected) {
            return Err(Failed::from(format!("{found:?} where {expected:?} was due")));
        }
    }
    match with(&|_| {}) {
        None => Ok(()),
        Some(error) => Err(Failed::from(format!("{error} for good tensors"))),
    }
}

fn other_device(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // Two devices of one instance: wgpu numbers buffers of each instance anew.
    let [own, other] = crate::adapters::two_devices(&gpu.adapter)?;
    let attention = LinearAttention::new(&own, a.config().clone())?;
    let plan = attention.plan(&Shape::new(1, T as u32, 1))?;
    let buffer = |device: &wgpu::Device| {
        device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: LEN,
            usage: BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    };
    let [q, k, v, out] = [0; 4].map(|_| buffer(&own));
    let stranger = buffer(&other);
    let tensors =
        Tensors { k: stranger.as_entire_buffer_binding(), ..Tensors::new(&q, &k, &v, &out) };
    let found = attention.bind(&own, &plan, &tensors, q.as_entire_buffer_binding());
    if !matches!(found, Err(BindError::Device { .. })) {
        return Err(Failed::from(format!("{found:?} for a buffer of another device")));
    }
    Ok(())
}

/// Asked to compile on a device that is not its own, it refuses, and then still works.
fn compiles_on_its_own_device(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // Two devices of one instance: wgpu numbers those of each instance anew.
    let [own, other] = crate::adapters::two_devices(&gpu.adapter)?;
    let attention = LinearAttention::new(&own, a.config().clone())?;
    let plan = attention.plan(&Shape::new(1, T as u32, 1))?;
    let [q, k, v, out] = [0; 4].map(|_| {
        own.create_buffer(&wgpu::BufferDescriptor {
            label: Some("test"),
            size: LEN,
            usage: BufferUsages::STORAGE,
            mapped_at_creation: false,
        })
    });
    let tensors = Tensors::new(&q, &k, &v, &out);
    let found = attention.bind(&other, &plan, &tensors, q.as_entire_buffer_binding());
    if !matches!(found, Err(BindError::Device { .. })) {
        return Err(Failed::from(format!("{found:?} on another device")));
    }
    if attention.prepare(&other, &plan, false, false).is_ok() {
        return Err(Failed::from("prepared on another device"));
    }
    attention.bind(&own, &plan, &tensors, q.as_entire_buffer_binding())?;
    Ok(())
}

/// More workgroups than one dimension holds: 70,000 heads, a place each.
fn folded_grid(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // One place a workgroup, so that few heads are many workgroups.
    let config = Config::new(4, 4);
    let mut tuning = *a.tuning();
    tuning.layout = match tuning.layout {
        Layout::Thread { .. } => Layout::Thread { value_quads: 1, threads: 1 },
        _ => Layout::Workgroup { column_threads: 1, chunk_tokens: 16, chunk_queries: 16 },
    };
    let mut options = linear_attention::Options::default();
    options.tuning = Some(tuning);
    let a = &LinearAttention::with_options(&gpu.device, config, &options)?;
    // Longer than a short run, which has several places to a workgroup.
    let (heads, tokens) = (70_000, MAX_DECODE_LEN + 1);
    let shape = Shape::new(1, tokens, heads);
    let v = numbers(heads as usize * 4, 3).repeat(tokens as usize);
    let q = vec![0.5; v.len()];
    if a.plan(&shape)?.dispatches()[0].workgroups[1] < 2 {
        return Err(Failed::from("not folded"));
    }
    // All of a head's values are the same, so o = v up to eps.
    let out = a.run(&gpu.device, &gpu.queue, &shape, Inputs::new(&q, &q, &v))?;
    super::properties::close("o", &v, &out.o)
}

fn send_and_sync(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let [q, k, v] = [1, 2, 3].map(|salt| numbers((T * D) as usize, salt));
    let shape = Shape::new(1, T as u32, 1);
    let expected = a.run(&gpu.device, &gpu.queue, &shape, Inputs::new(&q, &k, &v))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| a.run(&gpu.device, &gpu.queue, &shape, Inputs::new(&q, &k, &v)))
            })
            .collect();
        for thread in threads {
            match thread.join() {
                Ok(Ok(found)) if found == expected => {}
                other => return Err(Failed::from(format!("{other:?}"))),
            }
        }
        Ok(())
    })
}

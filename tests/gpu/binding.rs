//! Bindings: one arena, states in place, and everything that `bind` must refuse.

use libtest_mimic::Failed;
use linear_attention::error::BindError;
use linear_attention::plan::MAX_DECODE_LEN;
use linear_attention::serve::Sequences;
use linear_attention::state;
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
    let o = tensor(gpu, &vec![f32::NAN; plan.lens().o as usize]);
    let scratch = tensor(gpu, &vec![f32::NAN; plan.scratch_size() as usize / 4 + 1]);
    let tensors = Tensors::new(&q, &k, &v, &o);
    let bound = a.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
    submit(gpu, a, &bound, &o)
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
    Ok(readback.wait()?.concat())
}

fn one_arena(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let [q, k, v] = [1, 2, 3].map(|salt| numbers((T * D) as usize, salt));
    let shape = Shape::new(1, T as u32, 1);
    let expected = a.run(&gpu.queue, &shape, Inputs::new(&q, &k, &v))?;
    let stride = LEN.next_multiple_of(256);
    let mut data = vec![f32::NAN; (stride * 8 / 4) as usize];
    for (slot, x) in [&q, &k, &v].into_iter().enumerate() {
        let at = (slot as u64 * stride / 4) as usize;
        data[at..at + x.len()].copy_from_slice(x);
    }
    let arena = tensor(gpu, &data);
    let at = |slot: u64, size| part(&arena, slot * stride, size);
    let plan = a.plan(&shape)?;
    let tensors = Tensors::from_bindings(at(0, LEN), at(1, LEN), at(2, LEN), at(3, LEN))
        .with_final_state(at(4, (D * D + D) * 4));
    let bound = a.bind(&plan, &tensors, Some(at(6, plan.scratch_size().max(4))))?;
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
        let inputs = Inputs::new(&q, &k, &v).with_initial_state(&mu, &nu);
        let truth = linear_attention::reference::recurrent(a.config(), &shape, inputs)?;

        let mut tuning = *a.tuning();
        tuning.min_segment_len = u32::MAX;
        tuning.max_segment_len = segment_len;
        let plan = Plan::new(a.config(), &shape, &gpu.device.limits(), &tuning)?;
        let states = tensor(gpu, &state::join(2, &mu, &nu));
        let [q, k, v] = [&q, &k, &v].map(|data| tensor(gpu, data));
        let o = tensor(gpu, &vec![f32::NAN; plan.lens().o as usize]);
        let scratch = tensor(gpu, &vec![f32::NAN; plan.scratch_size() as usize / 4 + 1]);
        let tensors = Tensors::new(&q, &k, &v, &o)
            .with_initial_state(states.as_entire_buffer_binding())
            .with_final_state(states.as_entire_buffer_binding());
        let bound = a.bind(&plan, &tensors, Some(scratch.as_entire_buffer_binding()))?;
        let f32s = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<_>>();
        super::properties::close("o", &f32s(&truth.o), &submit(gpu, a, &bound, &o)?)?;
        // The submission above has updated the state once.
        let mut encoder =
            gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let readback = Readback::record(&gpu.device, &mut encoder, &[&states])?;
        gpu.queue.submit([encoder.finish()]);
        let (mu, nu) = state::split(2, mu.len(), &readback.wait()?[0]);
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
    let inputs = Inputs::new(&q, &k, &v).with_initial_state(&mu, &nu);
    let found = a.run(&gpu.queue, &shape, inputs)?;
    let truth = linear_attention::reference::recurrent(&config, &shape, inputs)?;
    let truth: Vec<f32> = truth.o.iter().map(|x| *x as f32).collect();
    super::properties::close("o", &truth, &found.o)?;

    let mut tuning = *a.tuning();
    tuning.min_segment_len = u32::MAX;
    let plan = Plan::new(&config, &shape, &gpu.device.limits(), &tuning)?;
    let states = tensor(gpu, &state::join(4, &mu, &nu));
    let [q, k, v] = [&q, &k, &v].map(|data| tensor(gpu, data));
    let o = tensor(gpu, &vec![f32::NAN; plan.lens().o as usize]);
    let tensors = Tensors::new(&q, &k, &v, &o)
        .with_initial_state(states.as_entire_buffer_binding())
        .with_final_state(states.as_entire_buffer_binding());
    match a.bind(&plan, &tensors, Some(o.as_entire_buffer_binding())) {
        Err(BindError::InPlace { actual }) if actual > 1 => Ok(()),
        other => Err(Failed::from(format!("{other:?} for a state that many workgroups read"))),
    }
}

/// The tensors, but for one binding.
fn edited<'a>(tensors: &Tensors<'a>, edit: impl FnOnce(&mut Tensors<'a>)) -> Tensors<'a> {
    let mut tensors = tensors.clone();
    edit(&mut tensors);
    tensors
}

fn refuses(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let storage = BufferUsages::STORAGE;
    let [q, k, v, o] = [0; 4].map(|_| buffer(gpu, LEN, storage));
    let large = buffer(gpu, 4 * LEN, storage);
    let uniform = buffer(gpu, LEN, BufferUsages::UNIFORM);
    let small = buffer(gpu, LEN - 4, storage);
    let plan = a.plan(&Shape::new(1, T as u32, 1))?;
    let align = u64::from(gpu.device.limits().min_storage_buffer_offset_alignment);
    let good = Tensors::new(&q, &k, &v, &o);
    let state_size = (D * D + D) * 4;
    let with = |edit: &dyn Fn(&mut Tensors<'_>)| {
        let mut tensors = good.clone();
        // The closure's tensors may borrow for as long as the good ones.
        edit(&mut tensors);
        a.bind(&plan, &tensors, Some(large.as_entire_buffer_binding())).err()
    };
    let mut cases: Vec<(Option<BindError>, BindError)> = vec![(
        a.bind(
            &plan,
            &edited(&good, |tensors| tensors.q = uniform.as_entire_buffer_binding()),
            Some(large.as_entire_buffer_binding()),
        )
        .err(),
        BindError::Usage { tensor: "q", actual: format!("{:?}", BufferUsages::UNIFORM) },
    )];
    let mut case = |tensors: Tensors<'_>, expected| {
        let found = a.bind(&plan, &tensors, Some(large.as_entire_buffer_binding()));
        cases.push((found.err(), expected));
    };
    case(
        edited(&good, |tensors| tensors.k = small.as_entire_buffer_binding()),
        BindError::TooSmall { tensor: "k", required: LEN, actual: LEN - 4 },
    );
    case(
        edited(&good, |tensors| tensors.v = part(&large, 4, LEN)),
        BindError::Misaligned { tensor: "v", required: align, actual: 4 },
    );
    case(
        edited(&good, |tensors| tensors.o = part(&large, 256 * 20, 4 * LEN)),
        BindError::BeyondBuffer { tensor: "o", required: 4 * LEN, actual: 256 * 20 + 4 * LEN },
    );
    case(
        edited(&good, |tensors| tensors.o = q.as_entire_buffer_binding()),
        BindError::Overlap { first: "q", second: "o", bytes: LEN },
    );
    case(
        good.clone()
            .with_initial_state(part(&large, 256, state_size))
            .with_final_state(part(&large, 0, state_size)),
        BindError::Overlap {
            first: "final_state",
            second: "initial_state",
            bytes: state_size - 256,
        },
    );
    case(
        good.clone().with_pool(part(&large, 0, state_size)),
        BindError::Unexpected { tensor: "pool" },
    );
    case(
        good.clone().with_sequences(Sequences::Device(part(&large, 0, 64))),
        BindError::Unexpected { tensor: "sequences" },
    );
    let other =
        Plan::new(&Config::new(8, 8), &Shape::new(1, 1, 1), &gpu.device.limits(), a.tuning());
    cases.push((
        a.bind(&other?, &good, Some(large.as_entire_buffer_binding())).err(),
        BindError::Plan { what: "config" },
    ));
    let mut tuning = *a.tuning();
    tuning.max_segment_len = T as u32 / 2;
    let segments =
        Plan::new(a.config(), &Shape::new(1, T as u32, 1), &gpu.device.limits(), &tuning);
    cases.push((a.bind(&segments?, &good, None).err(), BindError::Missing { tensor: "scratch" }));
    for (found, expected) in cases {
        if found.as_ref() != Some(&expected) {
            return Err(Failed::from(format!("{found:?} where {expected:?} was due")));
        }
    }
    let found = with(&|_| {}).or_else(|| a.bind(&plan, &good, None).err());
    match found {
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
    let [q, k, v, o] = [0; 4].map(|_| buffer(&own));
    let stranger = buffer(&other);
    let mut tensors = Tensors::new(&q, &k, &v, &o);
    tensors.k = stranger.as_entire_buffer_binding();
    let found = attention.bind(&plan, &tensors, Some(q.as_entire_buffer_binding()));
    if !matches!(found, Err(BindError::Device(_))) {
        return Err(Failed::from(format!("{found:?} for a buffer of another device")));
    }
    Ok(())
}

/// More workgroups than one dimension holds: 70,000 heads, a place each.
fn folded_grid(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    // One place a workgroup, so that few heads are many workgroups.
    let config = Config::new(4, 4);
    let mut tuning = *a.tuning();
    tuning.layout = Layout::workgroup(16, 4, 1, 16);
    let options = linear_attention::Options::default().with_tuning(tuning);
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
    let output = a.run(&gpu.queue, &shape, Inputs::new(&q, &q, &v))?;
    super::properties::close("o", &v, &output.o)
}

fn send_and_sync(gpu: &Gpu, a: &LinearAttention) -> Result<(), Failed> {
    let [q, k, v] = [1, 2, 3].map(|salt| numbers((T * D) as usize, salt));
    let shape = Shape::new(1, T as u32, 1);
    let expected = a.run(&gpu.queue, &shape, Inputs::new(&q, &k, &v))?;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| a.run(&gpu.queue, &shape, Inputs::new(&q, &k, &v))))
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

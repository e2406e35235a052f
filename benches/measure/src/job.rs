//! One shape: compiled, checked, timed.

use std::time::Instant;

use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, Buffer, BufferUsages, Device, Queue};
use linear_attention::{
    Bound, LinearAttention, Options, Plan, Stage, StateBinding, Tensors, Tuning, reference,
};

use crate::random::Drawn;
use crate::report::Measured;
use crate::{
    Ceilings, Latency, MeasureError, Row, Sizes, StageTime, TOLERANCE, Timer, latency,
    relative_error,
};

/// Tokens and sequences of the result that is checked before a shape is timed.
const CHECKED_TOKENS: u32 = 512;
const CHECKED_BATCH: u32 = 8;

/// A shape whose pipelines are compiled and whose plan is made, ready to be measured.
#[derive(Debug)]
pub struct Job {
    attention: LinearAttention,
    plan: Plan,
    pipeline_ms: f64,
}

impl Job {
    /// Compiles and plans, so that a shape which does not fit is refused before any waits.
    ///
    /// # Errors
    ///
    /// [`MeasureError::Config`] or [`MeasureError::Plan`].
    pub fn new(device: &Device, sizes: &Sizes) -> Result<Self, MeasureError> {
        Self::with_tuning(device, sizes, None)
    }

    /// The same with sizes that were found by measuring.
    ///
    /// # Errors
    ///
    /// As [`Job::new`].
    pub fn with_tuning(
        device: &Device,
        sizes: &Sizes,
        tuning: Option<Tuning>,
    ) -> Result<Self, MeasureError> {
        let start = Instant::now();
        let mut options = Options::default();
        options.tuning = tuning;
        let attention = LinearAttention::with_options(device, sizes.config(), &options)?;
        let plan = attention.plan(&sizes.shape())?;
        let carries_state = carries_state(&plan);
        attention.prepare(device, &plan, carries_state, carries_state)?;
        let pipeline_ms = milliseconds(start);
        Ok(Self { attention, plan, pipeline_ms })
    }

    /// What it measures.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes::from(&self.plan)
    }

    /// Checks the first tokens, then times the whole and, where there are several, each
    /// stage; by the median of `iterations`.
    ///
    /// A single token is a step of decoding, which carries a state on: it is measured with
    /// an initial and a final state, one and the same where the plan allows it.
    ///
    /// # Errors
    ///
    /// The first tokens were wrong, or the device failed.
    pub fn measure(
        &self,
        timer: &Timer<'_>,
        ceilings: &Ceilings,
        iterations: usize,
    ) -> Result<Row, MeasureError> {
        let Self { attention, plan, .. } = self;
        let device = timer.device();
        let buffers = Buffers::new(device, plan, carries_state(plan));
        let bound = buffers.bind(device, attention, plan)?;
        // The upload is done before the first dispatch is submitted.
        timer.by_wall_clock(device.create_command_encoder(&Default::default()))?;
        let mut encoder = device.create_command_encoder(&Default::default());
        attention.record(&mut encoder, &bound);
        let first_dispatch = timer.by_wall_clock(encoder)?;
        self.check(device, timer.queue())?;

        let seconds = timer.median(iterations, &|pass| attention.dispatch(pass, &bound))?;
        let stages = self.time_stages(timer, &bound, iterations)?;
        let [record, finish] = latency::record(device, attention, &bound);
        Ok(Row::new(
            plan,
            ceilings,
            Measured {
                seconds,
                stages,
                total_bytes: buffers.total_bytes(),
                state_bytes: buffers.state_bytes(),
                latency: Latency {
                    pipeline_ms: self.pipeline_ms,
                    first_dispatch_ms: 1e3 * first_dispatch,
                    record_us: 1e6 * record,
                    finish_us: 1e6 * finish,
                },
            },
        ))
    }

    /// Whether the first tokens of this shape come out right.
    fn check(&self, device: &Device, queue: &Queue) -> Result<(), MeasureError> {
        let mut shape = *self.plan.shape();
        shape.seq_len = shape.seq_len.min(CHECKED_TOKENS);
        shape.batch = shape.batch.min(CHECKED_BATCH);
        let config = self.plan.config();
        let drawn = Drawn::new(&shape.lens(config)?, carries_state(&self.plan));
        let found = self.attention.run(device, queue, &shape, drawn.inputs())?;
        let expected = reference::recurrent(config, &shape, drawn.inputs())?;
        let actual = relative_error(&found.o, &expected.o);
        if actual <= TOLERANCE {
            return Ok(());
        }
        Err(MeasureError::Wrong { sizes: self.sizes(), required: TOLERANCE, actual })
    }

    /// Each stage alone, where the plan has more than one.
    fn time_stages(
        &self,
        timer: &Timer<'_>,
        bound: &Bound,
        iterations: usize,
    ) -> Result<Vec<StageTime>, MeasureError> {
        let has = |stage| self.plan.dispatches().iter().any(|dispatch| dispatch.stage == stage);
        let stages: Vec<Stage> = Stage::ALL.into_iter().filter(|stage| has(*stage)).collect();
        if stages.len() < 2 {
            return Ok(Vec::new());
        }
        let time = |stage: Stage| {
            let seconds = timer.median(iterations, &|pass| {
                self.attention.dispatch_stage(pass, bound, stage);
            })?;
            Ok(StageTime { stage: stage.name().to_owned(), ms: 1e3 * seconds })
        };
        stages.into_iter().map(time).collect()
    }
}

/// A single token is a step of decoding.
fn carries_state(plan: &Plan) -> bool {
    plan.shape().seq_len == 1
}

/// Every tensor of a shape, whole.
struct Buffers {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Buffer,
    scratch: Buffer,
    initial: Option<[Buffer; 2]>,
    /// Apart from the initial state only where a plan cannot update in place.
    final_: Option<[Buffer; 2]>,
}

impl Buffers {
    fn new(device: &Device, plan: &Plan, with_state: bool) -> Self {
        let lens = plan.lens();
        let drawn = Drawn::new(lens, with_state);
        let filled = |data: &[f32]| {
            device.create_buffer_init(&BufferInitDescriptor {
                label: Some("linear-attention.input"),
                contents: bytemuck::cast_slice(data),
                usage: BufferUsages::STORAGE,
            })
        };
        let empty = |size| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("linear-attention.output"),
                size,
                usage: BufferUsages::STORAGE,
                mapped_at_creation: false,
            })
        };
        let initial = drawn.state.as_ref().map(|[mu, nu]| [filled(mu), filled(nu)]);
        let apart = with_state && !plan.updates_in_place();
        Self {
            q: filled(&drawn.q),
            k: filled(&drawn.k),
            v: filled(&drawn.v),
            out: empty(plan.config().dtype.size() * lens.o),
            scratch: empty(plan.scratch_size().max(4)),
            final_: apart.then(|| [empty(4 * lens.mu), empty(4 * lens.nu)]),
            initial,
        }
    }

    fn bind(
        &self,
        device: &Device,
        attention: &LinearAttention,
        plan: &Plan,
    ) -> Result<Bound, MeasureError> {
        let final_ = self.final_.as_ref().or(self.initial.as_ref());
        let tensors = Tensors {
            initial: self.initial.as_ref().map(state_binding),
            final_: final_.map(state_binding),
            ..Tensors::new(&self.q, &self.k, &self.v, &self.out)
        };
        Ok(attention.bind(device, plan, &tensors, self.scratch.as_entire_buffer_binding())?)
    }

    fn state_bytes(&self) -> u64 {
        [&self.initial, &self.final_].into_iter().flatten().flatten().map(Buffer::size).sum()
    }

    fn total_bytes(&self) -> u64 {
        let all = [&self.q, &self.k, &self.v, &self.out, &self.scratch];
        all.into_iter().map(Buffer::size).sum::<u64>() + self.state_bytes()
    }
}

fn state_binding([mu, nu]: &[Buffer; 2]) -> StateBinding<'_> {
    StateBinding { mu: mu.as_entire_buffer_binding(), nu: nu.as_entire_buffer_binding() }
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}

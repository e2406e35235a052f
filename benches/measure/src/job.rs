//! One shape: compiled, checked, timed.

use std::time::Instant;

use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, Buffer, BufferUsages, Device, Queue};
use linear_attention::{
    Bound, LinearAttention, Options, Plan, Shape, Stage, Tensors, Tuning, join_states, reference,
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
        let mut shape = sizes.shape();
        if sizes.is_step() {
            shape = shape.with_slots(sizes.b);
        }
        let plan = attention.plan(&shape)?;
        attention.prepare(device, &plan, false, false)?;
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
    /// states in a pool, whose slots a buffer tells.
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
        let buffers = Buffers::new(device, plan);
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
        let sizes = self.sizes();
        let (batch, tokens) = (sizes.b.min(CHECKED_BATCH), sizes.t.min(CHECKED_TOKENS));
        let shape = Shape::new(batch, tokens, sizes.h).with_kv_heads(sizes.g);
        let config = self.plan.config();
        let drawn = Drawn::new(&shape.lens(config)?, sizes.is_step());
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

/// Every tensor of a shape, whole.
struct Buffers {
    q: Buffer,
    k: Buffer,
    v: Buffer,
    out: Buffer,
    scratch: Buffer,
    /// The states of a step of decoding, and which sequence has which.
    pool: Option<[Buffer; 2]>,
}

impl Buffers {
    fn new(device: &Device, plan: &Plan) -> Self {
        let lens = plan.lens();
        let slots = plan.shape().slots;
        let drawn = Drawn::new(lens, slots.is_some());
        let filled = |bytes: &[u8]| {
            device.create_buffer_init(&BufferInitDescriptor {
                label: Some("linear-attention.input"),
                contents: bytes,
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
        let pool = slots.zip(drawn.state.as_ref()).map(|(slots, [mu, nu])| {
            let states = join_states(slots as usize, mu, nu);
            // A status, then a slot for each sequence: in no order, as they are in use.
            let mut words: Vec<u32> = vec![0];
            words.extend((0..slots).rev());
            [filled(bytemuck::cast_slice(&states)), filled(bytemuck::cast_slice(&words))]
        });
        Self {
            q: filled(bytemuck::cast_slice(&drawn.q)),
            k: filled(bytemuck::cast_slice(&drawn.k)),
            v: filled(bytemuck::cast_slice(&drawn.v)),
            out: empty(plan.config().dtype.size() * lens.o),
            scratch: empty(plan.scratch_size().max(4)),
            pool,
        }
    }

    fn bind(
        &self,
        device: &Device,
        attention: &LinearAttention,
        plan: &Plan,
    ) -> Result<Bound, MeasureError> {
        let mut tensors = Tensors::new(&self.q, &self.k, &self.v, &self.out);
        if let Some([pool, sequences]) = &self.pool {
            tensors.pool = Some(pool.as_entire_buffer_binding());
            tensors.sequences = Some(sequences.as_entire_buffer_binding());
        }
        Ok(attention.bind(device, plan, &tensors, self.scratch.as_entire_buffer_binding())?)
    }

    fn state_bytes(&self) -> u64 {
        self.pool.as_ref().map_or(0, |[pool, _]| pool.size())
    }

    fn total_bytes(&self) -> u64 {
        let all = [&self.q, &self.k, &self.v, &self.out, &self.scratch];
        all.into_iter().chain(self.pool.iter().flatten()).map(Buffer::size).sum()
    }
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}

//! One shape: compiled, checked, timed.

use std::time::Instant;

use linear_attention::feature_map::WeightsBuffer;
use linear_attention::plan::Stage;
use linear_attention::serve::{Batch, Entry, Sequences, Slot, StatePool};
use linear_attention::state;
use linear_attention::tuning::{MatrixUnits, RowSource, Tuning};
use linear_attention::wgpu::util::{BufferInitDescriptor, DeviceExt};
use linear_attention::wgpu::{self, Buffer, BufferUsages, Device, Queue};
use linear_attention::{
    Bound, Config, LinearAttention, Options, Plan, Readback, Shape, States, Tensors, reference,
};

use crate::random::Drawn;
use crate::report::Measured;
use crate::{
    Ceilings, Latency, MATRIX_TOLERANCE, MeasureError, Row, Sizes, StageTime, TOLERANCE, Timer,
    latency, relative_error,
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
    /// The compiled config.
    #[must_use]
    pub fn config(&self) -> &Config {
        self.plan.config()
    }

    /// Compiles and plans, so that a shape which does not fit is refused before any waits. Of
    /// `config` K and V are those of `sizes`.
    ///
    /// # Errors
    ///
    /// [`MeasureError::Config`] or [`MeasureError::Plan`].
    pub fn new(device: &Device, sizes: &Sizes, config: &Config) -> Result<Self, MeasureError> {
        Self::with_tuning(device, sizes, config, None, None)
    }

    /// The same with sizes that were found by measuring, and with matrix units where these sizes
    /// are theirs.
    ///
    /// # Errors
    ///
    /// As [`Job::new`].
    pub fn with_tuning(
        device: &Device,
        sizes: &Sizes,
        config: &Config,
        tuning: Option<Tuning>,
        matrix_units: Option<&MatrixUnits>,
    ) -> Result<Self, MeasureError> {
        let start = Instant::now();
        let has_layout = |units: &&MatrixUnits| {
            tuning.is_some_and(|tuning| tuning.layout == units.tuning().layout)
        };
        let options = Options::default()
            .with_tuning(tuning)
            .with_matrix_units(matrix_units.filter(has_layout));
        let mut config = config.clone();
        (config.key_dim, config.value_dim) = (sizes.k, sizes.v);
        let attention = LinearAttention::with_options(device, config, &options)?;
        let mut shape = sizes.shape();
        if sizes.is_step() {
            shape = shape.with_slots(sizes.b);
        }
        let plan = attention.plan(&shape)?;
        attention.prepare(&plan, States::None)?;
        let pipeline_ms = milliseconds(start);
        Ok(Self { attention, plan, pipeline_ms })
    }

    /// The measured shape.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes::from(&self.plan)
    }

    /// The library's shape, as it is measured.
    #[must_use]
    pub fn shape(&self) -> &Shape {
        self.plan.shape()
    }

    /// Checks the first tokens, then times the whole and, where there are several, each
    /// stage; by the median of `iterations`.
    ///
    /// A single token is a decode step, which reads and writes a state: it is measured with states
    /// in a pool, whose slots are in a buffer.
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
        let buffers = Buffers::new(device, timer.queue(), plan)?;
        let bound = buffers.bind(attention, plan)?;
        // The upload is done before the first dispatch is submitted.
        timer.by_wall_clock(device.create_command_encoder(&Default::default()))?;
        let mut encoder = device.create_command_encoder(&Default::default());
        attention.record(&mut encoder, &bound);
        let first_dispatch = timer.by_wall_clock(encoder)?;
        if self.sizes().is_step() {
            self.check_step(device, timer.queue(), &buffers)?;
        } else {
            self.check(timer.queue())?;
        }

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

    /// Checks the first tokens of this shape.
    fn check(&self, queue: &Queue) -> Result<(), MeasureError> {
        let sizes = self.sizes();
        let (batch, tokens) = (sizes.b.min(CHECKED_BATCH), sizes.t.min(CHECKED_TOKENS));
        let shape = Shape::new(batch, tokens, sizes.h).with_kv_heads(sizes.g);
        let config = self.plan.config();
        let drawn = Drawn::new(config, &shape.lens(config)?, sizes.is_step())?;
        let found = self.attention.run(queue, &shape, drawn.inputs())?;
        let expected = reference::recurrent(config, &shape, drawn.inputs())?;
        self.hold(&found.o, &expected.o)
    }

    /// Checks the first sequences of the step that has just run.
    fn check_step(
        &self,
        device: &Device,
        queue: &Queue,
        buffers: &Buffers,
    ) -> Result<(), MeasureError> {
        let (sizes, config) = (self.sizes(), self.plan.config());
        let checked = sizes.b.min(CHECKED_BATCH);
        let mut drawn = Drawn::new(config, self.plan.lens(), true)?;
        let of_one = |x: &[f32]| x.len() / sizes.b as usize;
        let gates = drawn.decay.iter_mut().chain(&mut drawn.beta);
        for x in [&mut drawn.q, &mut drawn.k, &mut drawn.v].into_iter().chain(gates) {
            let len = of_one(x) * checked as usize;
            x.truncate(len);
        }
        // Sequence n has the slot that was allocated n-th from the end.
        drawn.state = drawn.state.map(|state| {
            state.map(|x| {
                x.rchunks(of_one(&x).max(1)).take(checked as usize).flatten().copied().collect()
            })
        });
        let mut encoder = device.create_command_encoder(&Default::default());
        let len = u64::from(checked) * self.plan.lens().o / u64::from(sizes.b);
        let bytes = config.dtype.bytes(len);
        let readback = Readback::record_ranges(device, &mut encoder, &[(&buffers.o, 0, bytes)])?;
        queue.submit([encoder.finish()]);
        let found = config.dtype.decode(&readback.wait()?.concat(), len as usize);
        let shape = Shape::new(checked, 1, sizes.h).with_kv_heads(sizes.g);
        let expected = reference::recurrent(config, &shape, drawn.inputs())?;
        self.hold(&found, &expected.o)
    }

    fn hold(&self, found: &[f32], expected: &[f64]) -> Result<(), MeasureError> {
        let actual = relative_error(found, expected, self.plan.config().dtype);
        let required = match self.plan.layout().row_source {
            RowSource::Matrices { .. } => MATRIX_TOLERANCE,
            _ => TOLERANCE,
        };
        if actual <= required {
            return Ok(());
        }
        Err(MeasureError::Wrong { sizes: self.sizes(), required, actual })
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
    o: Buffer,
    decay: Option<Buffer>,
    beta: Option<Buffer>,
    scratch: Buffer,
    weights: Option<WeightsBuffer>,
    /// The states of a step of decoding, and which sequence has which.
    pool: Option<(StatePool, Batch)>,
}

impl Buffers {
    fn new(device: &Device, queue: &Queue, plan: &Plan) -> Result<Self, MeasureError> {
        let lens = plan.lens();
        let slots = plan.shape().slots;
        let drawn = Drawn::new(plan.config(), lens, slots.is_some())?;
        let weights = drawn.weights.as_ref().map(|w| WeightsBuffer::new(device, plan.config(), w));
        let dtype = plan.config().dtype;
        let init = |contents: &[u8]| {
            device.create_buffer_init(&BufferInitDescriptor {
                label: Some("linear-attention.input"),
                contents,
                usage: BufferUsages::STORAGE,
            })
        };
        let filled = |data: &[f32]| init(&dtype.encode(data));
        let gates = |data: &Option<Vec<f32>>| data.as_ref().map(|x| init(bytemuck::cast_slice(x)));
        let empty = |size| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("linear-attention.output"),
                size,
                usage: BufferUsages::STORAGE | BufferUsages::COPY_SRC,
                mapped_at_creation: false,
            })
        };
        let pool = slots.map(|slots| pool(device, queue, plan, slots, &drawn)).transpose()?;
        Ok(Self {
            q: filled(&drawn.q),
            k: filled(&drawn.k),
            v: filled(&drawn.v),
            o: empty(dtype.bytes(lens.o)),
            decay: gates(&drawn.decay),
            beta: gates(&drawn.beta),
            scratch: empty(plan.scratch_size().max(4)),
            weights: weights.transpose()?,
            pool,
        })
    }

    fn bind(&self, attention: &LinearAttention, plan: &Plan) -> Result<Bound, MeasureError> {
        let mut tensors = Tensors::new(&self.q, &self.k, &self.v, &self.o);
        tensors.decay = self.decay.as_ref().map(Buffer::as_entire_buffer_binding);
        tensors.beta = self.beta.as_ref().map(Buffer::as_entire_buffer_binding);
        tensors.weights = self.weights.as_ref().map(WeightsBuffer::binding);
        if let Some((pool, batch)) = &self.pool {
            tensors.pool = Some(pool.binding());
            tensors.sequences = Some(Sequences::Host(batch));
        }
        Ok(attention.bind(plan, &tensors, Some(self.scratch.as_entire_buffer_binding()))?)
    }

    fn state_bytes(&self) -> u64 {
        self.pool.as_ref().and_then(|(pool, _)| pool.binding().size).map_or(0, u64::from)
    }

    fn total_bytes(&self) -> u64 {
        let all = [&self.q, &self.k, &self.v, &self.o, &self.scratch];
        all.into_iter().chain(&self.decay).chain(&self.beta).map(Buffer::size).sum::<u64>()
            + self.state_bytes()
    }
}

/// A pool full of states, and a batch that has them in reverse: slots are in no order in use.
fn pool(
    device: &Device,
    queue: &Queue,
    plan: &Plan,
    slots: u32,
    drawn: &Drawn,
) -> Result<(StatePool, Batch), MeasureError> {
    let pool = StatePool::new(device, plan.config(), plan.shape().value_heads, slots)?;
    let mut encoder = device.create_command_encoder(&Default::default());
    let handles: Result<Vec<Slot>, _> = (0..slots).map(|_| pool.allocate(&mut encoder)).collect();
    queue.submit([encoder.finish()]);
    if let Some([mu, nu]) = &drawn.state {
        let states = state::join(slots as usize, mu, nu);
        queue.write_buffer(pool.binding().buffer, 0, bytemuck::cast_slice(&states));
    }
    let tokens = plan.shape().seq_len;
    let entries: Vec<Entry> =
        handles?.into_iter().rev().map(|slot| Entry::new(slot, tokens)).collect();
    let batch = Batch::new(plan, &pool)?;
    batch.write(queue, &pool, &entries)?;
    Ok((pool, batch))
}

fn milliseconds(start: Instant) -> f64 {
    1e3 * start.elapsed().as_secs_f64()
}

//! A rank of a test.

use std::process::ExitCode;

use linear_attention::cpu::CpuAttention;
use linear_attention::gradients::{Gradients, OutputGradients};
use linear_attention::summary::{Form, Summary};
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::verify::{self, Options, Row};
use linear_attention::{Config, Inputs, Output, Shape, wgpu};
use linear_attention_mpi::mpi::collective::{CommunicatorCollectives, Root};
use linear_attention_mpi::mpi::datatype::PartitionMut;
use linear_attention_mpi::mpi::topology::{Communicator, SimpleCommunicator};
use linear_attention_mpi::{DeviceEngine, Engine, Error, Ranks, mpi};

use crate::pieces::{Piece, zeros};

pub(crate) fn main(mode: &str) -> ExitCode {
    let threads = mpi::Threading::Funneled;
    let (universe, _) = mpi::initialize_with_threading(threads).expect("the first to do so");
    let world = universe.world();
    let ranks = Ranks::new(&world);
    let rank = Rank { ranks, world, expects_failures: mode == "mistakes" };
    let passed = match mode {
        "forward" => rank.forward("", &|config| Ok(CpuAttention::new(config)?)) > 300,
        "backward" => rank.backward("", &|config| Ok(CpuAttention::new(config)?)) > 50,
        "mixed" => rank.mixed(),
        "mistakes" => rank.mistakes(),
        "errors" => rank.errors(),
        "killed" => rank.killed(),
        "traffic" => rank.traffic(),
        _ => panic!("a mode, found {mode}"),
    };
    if passed {
        println!("rank done");
    }
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Rank {
    ranks: Ranks,
    world: SimpleCommunicator,
    expects_failures: bool,
}

impl Rank {
    fn number(&self) -> usize {
        self.ranks.rank() as usize
    }

    fn size(&self) -> usize {
        self.ranks.size() as usize
    }

    /// The rows of a report that fail, which one rank prints.
    fn print(&self, row: &Row) {
        if !row.passed && self.number() == 0 && !self.expects_failures {
            eprintln!("{row:?}");
        }
    }

    /// The harness's cases, each computed by all ranks: how many tensors were compared, 0 where one
    /// failed.
    fn forward<E: Engine>(
        &self,
        filter: &str,
        engine: &dyn Fn(Config) -> Result<E, linear_attention::Error>,
    ) -> usize {
        let mut compute = |config: &Config, shape: &Shape, inputs: Inputs<'_>| {
            let engine = engine(config.clone())?;
            Ok(self.in_pieces((&engine, config, shape), inputs))
        };
        let options = Options::default().with_filter(filter);
        let report = verify::run_host(&options, &mut compute, &mut |row| self.print(row));
        if report.passed() { report.rows.len() } else { 0 }
    }

    /// A call on all ranks, and its whole output on each.
    fn in_pieces<E: Engine>(
        &self,
        (engine, config, shape): (&E, &Config, &Shape),
        inputs: Inputs<'_>,
    ) -> Output {
        let count = self.size();
        let pieces: Vec<_> =
            (0..count).map(|i| Piece::new(config, shape, inputs, (i, count))).collect();
        let own = &pieces[self.number()];
        let mut of_piece = own.inputs(inputs);
        of_piece.initial_state = inputs.initial_state.filter(|_| self.number() == 0);
        let found = self.ranks.forward(engine, &own.shape, of_piece).unwrap();
        let mut whole = zeros(config, shape);
        for (piece, o) in pieces.iter().zip(self.gather(&found.output.o)) {
            piece.put_o(config, shape, &o, &mut whole.o);
        }
        let last = self.world.process_at_rank(self.ranks.size() - 1);
        (whole.mu, whole.nu) = (found.output.mu, found.output.nu);
        last.broadcast_into(&mut whole.mu[..]);
        last.broadcast_into(&mut whole.nu[..]);
        whole
    }

    /// A slice of each rank.
    fn gather(&self, own: &[f32]) -> Vec<Vec<f32>> {
        let mut counts = vec![0i32; self.size()];
        self.world.all_gather_into(&(own.len() as i32), &mut counts[..]);
        let begins: Vec<i32> = counts
            .iter()
            .scan(0, |end, count| {
                *end += count;
                Some(*end - count)
            })
            .collect();
        let mut all = vec![0.0f32; counts.iter().sum::<i32>() as usize];
        let mut parts = PartitionMut::new(&mut all[..], &counts[..], &begins[..]);
        self.world.all_gather_varcount_into(own, &mut parts);
        let of = |(begin, count): (&i32, &i32)| {
            all[*begin as usize..(*begin + *count) as usize].to_vec()
        };
        begins.iter().zip(&counts).map(of).collect()
    }

    /// The same for the backward pass.
    fn backward<E: Engine>(
        &self,
        filter: &str,
        engine: &dyn Fn(Config) -> Result<E, linear_attention::Error>,
    ) -> usize {
        let count = self.size();
        let mut compute =
            |config: &Config, shape: &Shape, inputs: Inputs<'_>, given: OutputGradients<'_>| {
                let engine = engine(config.clone())?;
                let pieces: Vec<_> =
                    (0..count).map(|i| Piece::new(config, shape, inputs, (i, count))).collect();
                let own = &pieces[self.number()];
                let of_piece = own.inputs(inputs);
                let mut first = of_piece;
                first.initial_state = inputs.initial_state.filter(|_| self.number() == 0);
                let forward = self.ranks.forward(&engine, &own.shape, first).unwrap();
                let o = own.of_o(config, shape, given.o);
                let mut by_o = OutputGradients::new(&o);
                if self.ranks.is_last() {
                    (by_o.mu, by_o.nu) = (given.mu, given.nu);
                }
                let call = (&own.shape, of_piece);
                let mut found = self.ranks.backward(&engine, call, &forward, by_o).unwrap();
                let root = self.world.process_at_rank(0);
                root.broadcast_into(&mut found.mu[..]);
                root.broadcast_into(&mut found.nu[..]);
                Ok(self.whole_gradients((config, shape), &pieces, found))
            };
        let options = Options::default().with_filter(filter);
        let report = verify::run_host_backward(&options, &mut compute, &mut |r| self.print(r));
        if report.passed() { report.rows.len() } else { 0 }
    }

    /// The gradients of all pieces on each rank.
    fn whole_gradients(
        &self,
        (config, shape): (&Config, &Shape),
        pieces: &[Piece],
        mut found: Gradients<f32>,
    ) -> Gradients<f32> {
        let mut whole = Gradients::default();
        let [q, k, v, decay, beta] =
            [&found.q, &found.k, &found.v, &found.decay, &found.beta].map(|x| self.gather(x));
        let rows = q.into_iter().zip(k).zip(v).zip(decay).zip(beta).zip(pieces);
        for (((((q, k), v), decay), beta), piece) in rows {
            (found.q, found.k, found.v, found.decay, found.beta) = (q, k, v, decay, beta);
            piece.put_gradients(config, shape, &found, (&mut whole, true));
        }
        (whole.mu, whole.nu) = (found.mu, found.nu);
        whole
    }

    /// Every other rank on a device, if there is one.
    fn mixed(&self) -> bool {
        let gpu = device();
        if gpu.is_none() {
            let is_required =
                std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU").is_some_and(|v| v == "1");
            assert!(!is_required, "no adapter found");
            eprintln!("no adapter: every rank has a CPU engine");
        }
        let engine = |config: Config| -> Result<Either, linear_attention::Error> {
            match &gpu {
                Some((device, queue)) if self.number() % 2 == 1 => {
                    Ok(Either::Device(Box::new(DeviceEngine::new(device, queue, config)?)))
                }
                _ => Ok(Either::Cpu(CpuAttention::new(config)?)),
            }
        };
        ["t64-state", "gated-packed", "gated-delta-packed"]
            .iter()
            .all(|filter| self.forward(filter, &engine) > 0)
            && self.backward("backward-packed", &engine) > 0
    }

    /// The harness notices a rank that sends nothing on.
    fn mistakes(&self) -> bool {
        let silent = |config: Config| Ok(Silent(CpuAttention::new(config)?));
        let filters = ["t64-state", "gated-packed", "gated-delta-packed"];
        filters.iter().all(|filter| self.forward(filter, &silent) == 0)
            && self.backward("backward-packed", &silent) == 0
    }

    /// One rank's refusal is every rank's, and the next call is as good as any.
    fn errors(&self) -> bool {
        let config = Config::new(4, 4);
        let shape = Shape::new(1, 5, 1);
        let engine = CpuAttention::new(config.clone()).unwrap();
        let good = vec![0.5f32; 20];
        let mut bad = good.clone();
        bad[7] = f32::NAN;
        let message = "k must be finite, found NaN at element 7";
        for failing in 0..self.size() {
            let k = if self.number() == failing { &bad } else { &good };
            let inputs = Inputs::new(&good, k, &good);
            let error = self.ranks.forward(&engine, &shape, inputs).unwrap_err();
            match &error {
                Error::Engine(error) if self.number() == failing => {
                    assert_eq!(error.to_string(), message);
                }
                Error::Rank { rank, message: found } if self.number() != failing => {
                    assert_eq!((*rank as usize, &found[..]), (failing, message));
                }
                _ => panic!("{error:?}"),
            }
            let inputs = Inputs::new(&good, &good, &good);
            assert!(self.ranks.forward(&engine, &shape, inputs).is_ok());
        }
        // Before a call, and one whose pieces do not belong together.
        let own = if self.number() == 2 { Err(Error::Different { what: "this" }) } else { Ok(()) };
        let error = self.ranks.agree(own).unwrap_err().to_string();
        assert!(error.ends_with("this must be the same on all ranks, found different ones"));
        let wide = if self.number() == 1 { 8 } else { 4 };
        let other = CpuAttention::new(Config::new(4, wide)).unwrap();
        let v = vec![0.5f32; 5 * wide as usize];
        let error = self.ranks.forward(&other, &shape, Inputs::new(&good, &good, &v)).unwrap_err();
        assert!(matches!(error, Error::Different { .. }), "{error}");
        // States that only one rank has.
        let state = [1.0f32; 16];
        let inputs = Inputs::new(&good, &good, &good);
        let nu = &state[..4];
        let of_rank = match self.number() {
            2 => inputs.with_initial_state(&state, nu),
            _ => inputs,
        };
        let error = self.ranks.forward(&engine, &shape, of_rank).unwrap_err().to_string();
        assert!(
            error.ends_with("initial state must be given on rank 0 alone, found on rank 2"),
            "{error}"
        );
        let piece = self.ranks.forward(&engine, &shape, inputs).unwrap();
        let mut by_o = OutputGradients::new(&good);
        if self.number() == 1 {
            by_o = by_o.with_final_state(&state, nu);
        }
        let error = self.ranks.backward(&engine, (&shape, inputs), &piece, by_o).unwrap_err();
        assert!(error.to_string().contains("gradient of the final state must be given on rank 2"));
        let by_o = OutputGradients::new(&good);
        self.ranks.backward(&engine, (&shape, inputs), &piece, by_o).is_ok()
    }

    /// Rank 1 dies between two calls.
    fn killed(&self) -> bool {
        let engine = CpuAttention::new(Config::new(4, 4)).unwrap();
        let (x, shape) = (vec![0.5f32; 20], Shape::new(1, 5, 1));
        let forward = || self.ranks.forward(&engine, &shape, Inputs::new(&x, &x, &x));
        assert!(forward().is_ok());
        if self.number() == 1 {
            let own = std::process::id().to_string();
            let _ = std::process::Command::new("kill").args(["-9", &own]).status();
        }
        forward().is_ok()
    }

    /// The bytes that a rank gives to a layer's exchange are those of the formula, whatever T.
    fn traffic(&self) -> bool {
        let (features, value_dim, heads, sequences) = (8u32, 12u32, 2u32, 3u32);
        let state = u64::from(sequences * heads * features);
        let (v, f) = (u64::from(value_dim), u64::from(features));
        let per_row = UpdateRule::Gated(Decay::per_row());
        let delta = UpdateRule::GatedDelta(Decay::per_head(), Beta::per_head());
        for (config, expected) in [
            (Config::new(features, value_dim), state * (v + 1) * 4),
            (Config::of_rule(features, value_dim, per_row), state * (v + 1) * 4),
            (Config::of_rule(features, value_dim, delta), state * (v + f) * 4),
        ] {
            let engine = CpuAttention::new(config.clone()).unwrap();
            let record = Form::of(&config).unwrap().record_len() as u64;
            assert_eq!(expected, u64::from(sequences * heads) * record * 4);
            for len in [1u32, 10, 1000] {
                let shape = Shape::packed(&[len; 3], heads);
                let lens = shape.lens(&config).unwrap();
                let rows = |len: u64, x: f32| vec![x; len as usize];
                let [q, k, values] = [rows(lens.q, 0.1), rows(lens.k, 0.2), rows(lens.v, 0.3)];
                let [decay, beta] = [rows(lens.decay, -0.1), rows(lens.beta, 0.5)];
                let mut inputs = Inputs::new(&q, &k, &values);
                inputs.decay = config.update_rule.decay().map(|_| &decay[..]);
                inputs.beta = config.update_rule.beta().map(|_| &beta[..]);
                let before = self.ranks.traffic();
                self.ranks.forward(&engine, &shape, inputs).unwrap();
                let after = self.ranks.traffic();
                assert_eq!(after.scans, before.scans + 1);
                assert_eq!(after.scan_bytes - before.scan_bytes, expected, "T = {len}");
                assert_eq!(after.control_bytes - before.control_bytes, 48);
            }
        }
        true
    }
}

/// An engine of either kind.
enum Either {
    Cpu(CpuAttention),
    Device(Box<DeviceEngine>),
}

impl Engine for Either {
    fn config(&self) -> &Config {
        match self {
            Self::Cpu(engine) => engine.config(),
            Self::Device(engine) => engine.config(),
        }
    }

    fn has_cheap_summaries(&self) -> bool {
        match self {
            Self::Cpu(engine) => engine.has_cheap_summaries(),
            Self::Device(engine) => engine.has_cheap_summaries(),
        }
    }

    fn summarize(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Summary, linear_attention::Error> {
        match self {
            Self::Cpu(engine) => engine.summarize(shape, inputs),
            Self::Device(engine) => engine.summarize(shape, inputs),
        }
    }

    fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, linear_attention::Error> {
        match self {
            Self::Cpu(engine) => engine.run(shape, inputs),
            Self::Device(engine) => engine.run(shape, inputs),
        }
    }

    fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, linear_attention::Error> {
        match self {
            Self::Cpu(engine) => engine.backward(shape, inputs, gradients),
            Self::Device(engine) => engine.backward(shape, inputs, gradients),
        }
    }
}

/// An engine whose summaries are those of no tokens.
struct Silent(CpuAttention);

impl Engine for Silent {
    fn config(&self) -> &Config {
        self.0.config()
    }

    fn has_cheap_summaries(&self) -> bool {
        true
    }

    fn summarize(&self, shape: &Shape, _: Inputs<'_>) -> Result<Summary, linear_attention::Error> {
        let config = self.0.config();
        Summary::empty(config, shape.value_heads, shape.sequences())
    }

    fn run(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, linear_attention::Error> {
        self.0.run(shape, inputs)
    }

    fn backward(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, linear_attention::Error> {
        self.0.backward(shape, inputs, gradients)
    }
}

fn device() -> Option<(wgpu::Device, wgpu::Queue)> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = pollster::block_on(instance.request_adapter(&Default::default())).ok()?;
    let required_limits = adapter.limits();
    let descriptor = wgpu::DeviceDescriptor { required_limits, ..Default::default() };
    pollster::block_on(adapter.request_device(&descriptor)).ok()
}

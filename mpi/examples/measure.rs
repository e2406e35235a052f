//! The parts of a layer's time on several machines, measured on this one, and a model of more ranks
//! made of them: see docs/machines.md. Run it on one rank for the engine's times, on several for
//! the scan's.
//!
//!     mpirun -n 4 target/release/examples/measure [TOKENS [HEADS [WIDTH]]]

use std::error::Error;
use std::hint::black_box;
use std::time::Instant;

use linear_attention::cpu::CpuAttention;
use linear_attention::state::StateSlices;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, Inputs, Shape};
use linear_attention_mpi::Ranks;
use linear_attention_mpi::mpi;

/// Repetitions, of which the fastest counts: whatever else this machine does makes the others
/// slower.
const REPETITIONS: usize = 15;

/// Ranks, and gigabits a second, of the model.
const RANKS: [u32; 7] = [1, 2, 4, 8, 16, 32, 64];
const NETWORKS: [f64; 3] = [10.0, 100.0, 400.0];

/// Seconds from one machine to the next before the first byte.
const LATENCY: f64 = 20e-6;

/// Tokens of the modelled sequence.
const MODELLED: f64 = (1 << 20) as f64;

fn main() -> Result<(), Box<dyn Error>> {
    let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Funneled)
        .ok_or("MPI was initialised before")?;
    let ranks = Ranks::new(&universe.world());
    let given: Vec<u32> =
        std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let argument = |i: usize, default: u32| given.get(i).copied().unwrap_or(default);
    let (tokens, heads, width) = (argument(0, 1024), argument(1, 4), argument(2, 128));
    let (head, beta) = (Decay::per_head(), Beta::per_head());
    for rule in [UpdateRule::Linear, UpdateRule::Gated(head), UpdateRule::GatedDelta(head, beta)] {
        let config = Config::of_rule(width, width, rule);
        let parts = measure(&ranks, &config, &Shape::new(1, tokens, heads))?;
        if ranks.rank() == 0 {
            parts.print(rule.name(), (tokens, heads, width), ranks.size());
        }
    }
    Ok(())
}

/// Seconds, and bytes. A join behind a known state multiplies no two matrices.
struct Parts {
    summary: f64,
    outputs: f64,
    join: f64,
    join_known: f64,
    scan: f64,
    bytes: u64,
}

fn measure(ranks: &Ranks, config: &Config, shape: &Shape) -> Result<Parts, Box<dyn Error>> {
    let lens = shape.lens(config)?;
    let waves = |len: u64, by: f32, from: f32, to: f32| -> Vec<f32> {
        (0..len).map(|i| ((i as f32 * by).sin() * 0.5 + 0.5) * (to - from) + from).collect()
    };
    let keys = (config.key_dim as f32).powf(-0.5);
    let (q, k) = (waves(lens.q, 0.713, -1.0, 1.0), waves(lens.k, 1.137, -keys, keys));
    let (v, decay) = (waves(lens.v, 0.377, -1.0, 1.0), waves(lens.decay, 0.931, -0.1, 0.0));
    let beta = waves(lens.beta, 0.577, 0.1, 0.9);
    let mut inputs = Inputs::new(&q, &k, &v);
    inputs.decay = config.update_rule.decay().map(|_| &decay[..]);
    inputs.beta = config.update_rule.beta().map(|_| &beta[..]);
    let engine = CpuAttention::new(config.clone())?;
    let added = engine.summarize(shape, inputs)?;
    let (mu, nu) = added.state();
    let known = added.after(StateSlices { mu: &mu, nu: &nu })?;
    let summary = fastest(|| engine.summarize(shape, inputs).map(black_box));
    let outputs = fastest(|| engine.run(shape, inputs).map(black_box));
    let join = fastest(|| added.then(&added).map(black_box));
    let join_known = fastest(|| known.then(&added).map(black_box));
    let bytes = 4 * added.records().len() as u64;
    let scan = fastest(|| ranks.states_before(Ok(added.clone()), None).map(black_box));
    Ok(Parts { summary, outputs, join, join_known, scan, bytes })
}

fn fastest<T, E>(mut run: impl FnMut() -> Result<T, E>) -> f64 {
    let seconds = (0..REPETITIONS).map(|_| {
        let begin = Instant::now();
        let is_done = run().is_ok();
        if is_done { begin.elapsed().as_secs_f64() } else { f64::INFINITY }
    });
    seconds.fold(f64::INFINITY, f64::min)
}

impl Parts {
    /// The parts and, measured on one rank, the model.
    fn print(&self, rule: &str, (tokens, heads, width): (u32, u32, u32), ranks: i32) {
        let of_token = |seconds: f64| 1e6 * seconds / f64::from(tokens);
        println!(
            "{rule}, T {tokens}, E {heads}, K = V = {width}: a token's summary {:.1} us, outputs {:.1} us; a \
             join {:.2} ms, behind a known state {:.2} ms; a scan over {ranks} ranks {:.2} ms, {} bytes",
            of_token(self.summary),
            of_token(self.outputs),
            1e3 * self.join,
            1e3 * self.join_known,
            1e3 * self.scan,
            self.bytes,
        );
        if ranks > 1 {
            return;
        }
        for network in NETWORKS {
            let wire = LATENCY + 8e-9 * self.bytes as f64 / network;
            let row = RANKS.map(|ranks: u32| {
                // A chain, as Open MPI scans by default, or doubling, with two joins a step.
                let doublings = f64::from(ranks.next_power_of_two().ilog2());
                let chain = f64::from(ranks - 1) * (wire + self.join_known);
                let messages = chain.min(doublings * (wire + 2.0 * self.join));
                // A scan of one rank is copies on the host, and no message.
                let exchange = if ranks > 1 { self.scan + messages } else { 0.0 };
                let all = self.of_piece(tokens, ranks) + exchange;
                let faster = self.of_piece(tokens, 1) / all;
                format!("{ranks}: {:.0} ({:.1}) x {faster:.1}", 1e3 * all, 1e3 * exchange)
            });
            println!("  {network} Gb/s, T {MODELLED}, ms (of which scan): {}", row.join("; "));
        }
    }

    /// Seconds of a rank for its piece of the modelled sequence.
    fn of_piece(&self, tokens: u32, ranks: u32) -> f64 {
        let passes = match ranks {
            1 => self.outputs,
            // The first rank has a summary or, if it takes longer, its outputs, and then the last
            // has its.
            2 => self.summary.min(self.outputs) + self.outputs,
            _ => self.summary + self.outputs,
        };
        MODELLED / f64::from(tokens) * passes / f64::from(ranks)
    }
}

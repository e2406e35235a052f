//! A sequence that no rank could hold: each rank goes through its tokens in blocks that fit a
//! memory budget, once for what they add to the state and once for their outputs, and exchanges one
//! state in between. Outputs of one head are compared with a recurrence in f64 over all tokens.
//!
//!     mpirun -n 4 target/debug/examples/long_sequence [TOKENS [HEADS [WIDTH [BUDGET_KIB]]]]

use std::error::Error;
use std::time::Instant;

use linear_attention::cpu::CpuAttention;
use linear_attention::summary::Summary;
use linear_attention::{Config, Inputs, Shape};
use linear_attention_mpi::Ranks;
use linear_attention_mpi::mpi;

/// Outputs of so many tokens are compared.
const COMPARED: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let (universe, _) = mpi::initialize_with_threading(mpi::Threading::Funneled)
        .ok_or("MPI was initialised before")?;
    let ranks = Ranks::new(&universe.world());
    let passed = long_sequence(&ranks);
    if let Err(error) = &passed {
        eprintln!("rank {}: {error}", ranks.rank());
    }
    passed
}

fn long_sequence(ranks: &Ranks) -> Result<(), Box<dyn Error>> {
    let given: Vec<u64> =
        std::env::args().skip(1).map(|number| number.parse()).collect::<Result<_, _>>()?;
    let argument = |i: usize, default: u64| given.get(i).copied().unwrap_or(default);
    let (all, budget) = (argument(0, 1 << 17), argument(3, 1024));
    let text = Text { heads: argument(1, 2) as usize, width: argument(2, 32) as usize };
    let (rank, size) = (ranks.rank() as u64, ranks.size() as u64);
    let tokens = all * rank / size..all * (rank + 1) / size;
    // q, k, v and o of a block.
    let row = text.heads * text.width;
    let block = (budget * 1024 / (4 * 4 * row as u64)).max(1);
    let blocks = || tokens.clone().step_by(block as usize).map(|t| t..tokens.end.min(t + block));
    let engine = CpuAttention::new(Config::new(text.width as u32, text.width as u32))?;
    let shape = |tokens: u64| Shape::new(1, tokens as u32, text.heads as u32);

    let begin = Instant::now();
    let summarize = || -> Result<Summary, linear_attention::Error> {
        let mut added = Summary::empty(engine.config(), text.heads as u32, 1)?;
        if ranks.is_last() {
            return Ok(added);
        }
        for block in blocks() {
            let [q, k, v] = text.rows(block.clone());
            let next =
                engine.summarize(&shape(block.end - block.start), Inputs::new(&q, &k, &v))?;
            added = added.then(&next)?;
        }
        Ok(added)
    };
    let added = summarize();
    let summarized = begin.elapsed();

    let begin = Instant::now();
    let (mut mu, mut nu) = ranks.states_before(added.map_err(Into::into), None)?;
    let exchanged = begin.elapsed();

    let begin = Instant::now();
    let every = (tokens.end - tokens.start).div_ceil(COMPARED).max(1);
    let head = rank as usize % text.heads;
    let mut compared = Vec::new();
    let mut compute = || -> Result<(), linear_attention::Error> {
        for block in blocks() {
            let [q, k, v] = text.rows(block.clone());
            let inputs = Inputs::new(&q, &k, &v).with_initial_state(&mu, &nu);
            let found = engine.run(&shape(block.end - block.start), inputs)?;
            for t in block.clone().filter(|t| (t - tokens.start).is_multiple_of(every)) {
                let begin = (t - block.start) as usize * row + head * text.width;
                compared.push((t, found.o[begin..begin + text.width].to_vec()));
            }
            (mu, nu) = (found.mu, found.nu);
        }
        Ok(())
    };
    let computed = compute();
    let outputs = begin.elapsed();
    ranks.agree(computed.map_err(Into::into))?;

    let worst = text.largest_error(head, tokens.end, &compared);
    let traffic = ranks.traffic();
    println!(
        "rank {rank}: {} of {all} tokens, {} KiB at a time of {} MiB; {} bytes to the scan; summary {:.0} \
         ms, exchange {:.1} ms, outputs {:.0} ms; largest error {worst:.1e}",
        tokens.end - tokens.start,
        block * 16 * row as u64 / 1024,
        (all * 16 * row as u64) >> 20,
        traffic.scan_bytes,
        1e3 * summarized.as_secs_f64(),
        1e3 * exchanged.as_secs_f64(),
        1e3 * outputs.as_secs_f64(),
    );
    let is_near = !compared.is_empty() && worst < 1e-5;
    let agreed = if is_near { Ok(()) } else { Err("the outputs are not those in f64") };
    // Each rank has said what it found: whoever is wrong fails the job.
    agreed.map_err(Into::into)
}

/// A text of any length, each token a function of its index.
struct Text {
    heads: usize,
    width: usize,
}

impl Text {
    /// An element of q, k or v, in -1..1.
    fn element(tensor: u64, token: u64, at: usize) -> f32 {
        let mut x = (3 * token + tensor).wrapping_mul(1 << 20) + at as u64;
        // splitmix64.
        x = x.wrapping_add(0x9E37_79B9_7F4A_7C15);
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    /// q, k and v of some tokens.
    fn rows(&self, tokens: std::ops::Range<u64>) -> [Vec<f32>; 3] {
        let row = self.heads * self.width;
        [0, 1, 2].map(|tensor| {
            let of_token = |t: u64| (0..row).map(move |at| Self::element(tensor, t, at));
            tokens.clone().flat_map(of_token).collect()
        })
    }

    /// The largest difference of some outputs of a head from those in f64, in parts of the largest.
    fn largest_error(&self, head: usize, end: u64, compared: &[(u64, Vec<f32>)]) -> f64 {
        let elu = |x: f32| if x >= 0.0 { f64::from(x) + 1.0 } else { f64::from(x).exp() };
        let width = self.width;
        let row = |tensor: u64, t: u64| -> Vec<f32> {
            (0..width).map(|i| Self::element(tensor, t, head * width + i)).collect()
        };
        let (mut mu, mut nu) = (vec![0.0f64; width * width], vec![0.0f64; width]);
        let (mut worst, mut largest) = (0.0f64, 0.0f64);
        let mut next = compared.iter();
        let mut wanted = next.next();
        for t in 0..end {
            let (k, v) = (row(1, t), row(2, t));
            for ((k, nu), mu) in k.iter().zip(&mut nu).zip(mu.chunks_mut(width)) {
                let k = elu(*k);
                *nu += k;
                mu.iter_mut().zip(&v).for_each(|(mu, v)| *mu += k * f64::from(*v));
            }
            let Some((_, found)) = wanted.filter(|(of, _)| *of == t) else { continue };
            wanted = next.next();
            let q: Vec<f64> = row(0, t).into_iter().map(elu).collect();
            let weight: f64 = q.iter().zip(&nu).map(|(q, nu)| q * nu).sum();
            for (i, found) in found.iter().enumerate() {
                let sum: f64 = q.iter().zip(mu.chunks(width)).map(|(q, mu)| q * mu[i]).sum();
                largest = largest.max((sum / weight).abs());
                worst = worst.max((sum / weight - f64::from(*found)).abs());
            }
        }
        worst / largest.max(f64::MIN_POSITIVE)
    }
}

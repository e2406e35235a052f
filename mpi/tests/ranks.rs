//! Ranks against one machine: the harness's cases, each rank with a piece of the tokens.
//!
//! Without arguments for a worker it is the test: it runs itself under mpirun, on loopback alone,
//! with several numbers of ranks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests may panic")]

#[path = "../../tests/pieces/mod.rs"]
mod pieces;
mod worker;

use std::io::Read;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

/// A variable that is set where mpirun has started this process.
const WORKER: &str = "LINEAR_ATTENTION_MPI_WORKER";

/// Numbers of ranks that every rule is computed on.
const RANKS: [u32; 5] = [1, 2, 3, 4, 7];

/// Until a job that has hung is ended.
const DEADLINE: Duration = Duration::from_secs(280);

fn main() -> ExitCode {
    if let Ok(mode) = std::env::var(WORKER) {
        return worker::main(&mode);
    }
    let mut arguments = Arguments::from_args();
    // Each test has more processes than most machines have cores.
    arguments.test_threads = Some(1);
    let mut trials = Vec::new();
    for ranks in RANKS {
        for mode in ["forward", "backward"] {
            let test = move || passes(ranks, mode);
            trials.push(Trial::test(format!("{mode}::{ranks}_ranks"), test));
        }
    }
    // Another algorithm of Open MPI's, which joins summaries of several ranks.
    trials.push(Trial::test("forward::7_ranks_by_doubling", || passes(7, "forward by doubling")));
    trials.push(Trial::test("mixed_engines", || passes(3, "mixed")));
    trials.push(Trial::test("mistakes_are_caught", || passes(3, "mistakes")));
    trials.push(Trial::test("errors_reach_all", || passes(3, "errors")));
    trials.push(Trial::test("traffic", || passes(4, "traffic")));
    trials.push(Trial::test("a_killed_rank_ends_the_job", killed));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// A job's exit status and all that it wrote.
struct Job {
    success: bool,
    output: String,
    seconds: u64,
}

fn job(ranks: u32, mode: &str) -> Result<Job, Failed> {
    let begin = Instant::now();
    let (mode, doubles) = match mode.strip_suffix(" by doubling") {
        Some(mode) => (mode, "2"),
        None => (mode, "0"),
    };
    let mut mpirun = Command::new("mpirun")
        .args(["-n", &ranks.to_string(), "--oversubscribe", "--allow-run-as-root"])
        // Shared memory, and loopback for what starts the ranks.
        .args(["--mca", "btl", "self,vader", "--mca", "btl_vader_single_copy_mechanism", "none"])
        .args(["--mca", "oob_tcp_if_include", "lo", "--bind-to", "none"])
        .args(["--mca", "coll_tuned_use_dynamic_rules", "1"])
        .args(["--mca", "coll_tuned_exscan_algorithm", doubles])
        .arg(std::env::current_exe()?)
        .env(WORKER, mode)
        .env("RAYON_NUM_THREADS", "1")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let read = |from: Option<Box<dyn Read + Send>>| {
        std::thread::spawn(move || {
            let mut text = String::new();
            if let Some(mut from) = from {
                let _ = from.read_to_string(&mut text);
            }
            text
        })
    };
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        mpirun.stdout.take().map(|stream| Box::new(stream) as Box<_>),
        mpirun.stderr.take().map(|stream| Box::new(stream) as Box<_>),
    ];
    let [out, err] = streams.map(read);
    let status = loop {
        if let Some(status) = mpirun.try_wait()? {
            break status;
        }
        if begin.elapsed() > DEADLINE {
            mpirun.kill()?;
            mpirun.wait()?;
            return Err(format!("{mode} on {ranks} ranks has hung").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = out.join().unwrap_or_default() + &err.join().unwrap_or_default();
    Ok(Job { success: status.success(), output, seconds: begin.elapsed().as_secs() })
}

fn passes(ranks: u32, mode: &str) -> Result<(), Failed> {
    let Job { success, output, .. } = job(ranks, mode)?;
    match success && output.matches("rank done").count() == ranks as usize {
        true => Ok(()),
        false => Err(output.into()),
    }
}

/// mpirun names the rank and ends the others, which wait for it.
fn killed() -> Result<(), Failed> {
    let Job { success, output, seconds } = job(3, "killed")?;
    let is_named = output.contains("process rank 1") && output.contains("signal 9");
    if success || !is_named || seconds > 60 || output.contains("rank done") {
        return Err(format!("after {seconds} s: {output}").into());
    }
    Ok(())
}

//! Trials spread over processes.
//!
//! llvmpipe compiles under one lock for the whole process, so that threads would wait for one
//! another. Here every thread has a process of its own: the same executable, which reads the name
//! of a trial from its input, runs it, and writes how it went. Threads take whole groups of trials,
//! whose pipelines are then compiled once. libtest-mimic reads the arguments and prints; each of
//! its trials waits for the result of the process that runs it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Completion, Failed};

use crate::{Trial, cases};

/// Tells a process that it is a worker.
const WORKER: &str = "LINEAR_ATTENTION_TEST_WORKER";

/// Begins a line that says how a trial went; a worker's other lines are what the trial prints.
const MARK: &str = "\u{1e}";

/// Without a result for so long, the trials that run are named.
const SILENCE: Duration = Duration::from_secs(8);

/// The file of the durations, the slowest trial first.
const DURATIONS: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/gpu-trials.tsv");

/// True where the full matrix runs.
static IS_FULL: AtomicBool = AtomicBool::new(false);

type Outcome = Result<Completion, Failed>;

/// A trial to run, and where its result is awaited.
struct Job {
    name: String,
    result: mpsc::Sender<Outcome>,
}

/// The state that all threads share.
struct Board {
    groups: Vec<Vec<Job>>,
    running: BTreeMap<String, Instant>,
    durations: Vec<(Duration, String)>,
    jobs: usize,
    last_line: Instant,
}

pub(crate) fn run(trials: &[Trial]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let mut listed = Vec::new();
    let mut left_out = 0;
    // Cost and jobs of each group.
    let mut groups: BTreeMap<&str, (u32, Vec<Job>)> = BTreeMap::new();
    for trial in trials {
        let (sender, receiver) = mpsc::channel::<Outcome>();
        let wait = move || receiver.recv().unwrap_or_else(|_| Err("no process ran it".into()));
        let waiting = libtest_mimic::Trial::ignorable_test(&trial.name, wait)
            .with_ignored_flag(trial.is_full);
        if arguments.is_filtered_out(&waiting) {
            listed.push(waiting);
        } else if !arguments.is_ignored(&waiting) {
            let (cost, jobs) = groups.entry(&trial.group).or_default();
            *cost += trial.cost;
            jobs.push(Job { name: trial.name.clone(), result: sender });
            listed.push(waiting);
        } else if arguments.list {
            listed.push(waiting);
        } else {
            left_out += 1;
        }
    }
    if arguments.list {
        return libtest_mimic::run(&arguments, listed).exit_code();
    }
    IS_FULL.store(arguments.include_ignored || arguments.ignored, Ordering::Relaxed);
    println!("seed {}: LINEAR_ATTENTION_SEED repeats it", cases::seed());
    if left_out > 0 {
        println!("{left_out} trials are of the full matrix alone: --include-ignored runs them too");
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    // Taken from the end.
    groups.sort_by_key(|(cost, _)| *cost);
    let groups: Vec<Vec<Job>> = groups.into_iter().map(|(_, jobs)| jobs).collect();
    let jobs = groups.iter().map(Vec::len).sum();
    let parallelism = || std::thread::available_parallelism().map_or(1, usize::from);
    let workers = arguments.test_threads.unwrap_or_else(parallelism).min(groups.len());
    let board = Arc::new(Mutex::new(Board {
        groups,
        running: BTreeMap::new(),
        durations: Vec::new(),
        jobs,
        last_line: Instant::now(),
    }));
    for _ in 0..workers {
        let board = Arc::clone(&board);
        std::thread::spawn(move || drive(&board));
    }
    let watched = Arc::clone(&board);
    std::thread::spawn(move || watch(&watched));
    // As many threads as trials: each does nothing but wait, and none behind another.
    arguments.test_threads = Some(jobs.max(1));
    let conclusion = libtest_mimic::run(&arguments, listed);
    write_durations(&mut lock(&board).durations);
    conclusion.exit_code()
}

/// Runs groups in a process until there are no more.
fn drive(board: &Mutex<Board>) {
    let mut worker = None;
    loop {
        // The lock is not held while the group runs.
        let Some(group) = lock(board).groups.pop() else { return };
        for job in group {
            let begin = Instant::now();
            lock(board).running.insert(job.name.clone(), begin);
            let outcome = ask(&mut worker, &job.name);
            let mut board = lock(board);
            board.running.remove(&job.name);
            board.durations.push((begin.elapsed(), job.name));
            board.last_line = Instant::now();
            // Nobody waits where the run has been given up.
            let _ = job.result.send(outcome);
        }
    }
}

/// A process that ends is the failure of the trial that it ran; the next has a new one.
fn ask(worker: &mut Option<Worker>, name: &str) -> Outcome {
    let asked = match worker {
        Some(worker) => worker,
        None => worker.insert(Worker::start()?),
    };
    if let Some(outcome) = asked.ask(name) {
        return outcome;
    }
    let ended = worker.take().map(|mut worker| worker.process.wait()).transpose()?;
    let ended = ended.map_or_else(String::new, |status| status.to_string());
    Err(Failed::from(format!("the process that ran it ended: {ended}")))
}

fn watch(board: &Mutex<Board>) {
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let mut board = lock(board);
        if board.last_line.elapsed() < SILENCE || board.running.is_empty() {
            continue;
        }
        board.last_line = Instant::now();
        let running: Vec<String> = board
            .running
            .iter()
            .map(|(name, since)| format!("{name} ({} s)", since.elapsed().as_secs()))
            .collect();
        let (done, jobs) = (board.durations.len(), board.jobs);
        eprintln!("{done} of {jobs} done, running: {}", running.join(", "));
    }
}

fn write_durations(durations: &mut [(Duration, String)]) {
    durations.sort_by(|a, b| b.cmp(a));
    let lines: Vec<String> = durations
        .iter()
        .map(|(duration, name)| format!("{:.2}\t{name}\n", duration.as_secs_f64()))
        .collect();
    if let Err(error) = std::fs::write(DURATIONS, lines.concat()) {
        eprintln!("durations are not written: {DURATIONS}: {error}");
    }
}

/// A thread that panics has failed its own trials; the others go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Worker {
    fn start() -> Result<Self, Failed> {
        let mut process = Command::new(std::env::current_exe()?)
            .env(WORKER, "1")
            // What is freed goes back to the system at once, and threads reserve no heaps of their
            // own: `memory::memory_ends` counts what is left.
            .env("MALLOC_MMAP_THRESHOLD_", (1 << 20).to_string())
            .env("MALLOC_ARENA_MAX", "1")
            .env("LINEAR_ATTENTION_SEED", cases::seed().to_string())
            .envs(IS_FULL.load(Ordering::Relaxed).then_some((cases::IS_FULL, "1")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = process.stdin.take().ok_or("a worker without input")?;
        let output = BufReader::new(process.stdout.take().ok_or("a worker without output")?);
        Ok(Self { process, input, output })
    }

    /// `None` where the process has ended.
    fn ask(&mut self, name: &str) -> Option<Outcome> {
        writeln!(self.input, "{name}").ok()?;
        loop {
            let mut line = String::new();
            if self.output.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let Some(found) = line.strip_prefix(MARK) else {
                print!("{line}");
                continue;
            };
            let (how, message): (String, String) = serde_json::from_str(found).ok()?;
            return Some(match how.as_str() {
                "passed" => Ok(Completion::Completed),
                "skipped" => Ok(Completion::ignored_with(message)),
                _ => Err(Failed::from(message)),
            });
        }
    }
}

pub(crate) fn is_worker() -> bool {
    std::env::var_os(WORKER).is_some()
}

thread_local! {
    static SKIPPED: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// For a trial to return where the device lacks what it tests.
pub(crate) fn skip(why: String) -> Result<(), Failed> {
    SKIPPED.set(Some(why));
    Ok(())
}

/// A worker: runs each trial named on its input.
pub(crate) fn serve(trials: &[Trial]) -> ExitCode {
    for name in std::io::stdin().lines().map_while(Result::ok) {
        let trial = trials.iter().find(|trial| trial.name == name);
        let found = match trial.map(|trial| catch_unwind(AssertUnwindSafe(&trial.test))) {
            Some(Ok(Ok(()))) => match SKIPPED.take() {
                Some(why) => ("skipped", why),
                None => ("passed", String::new()),
            },
            Some(Ok(Err(failed))) => ("failed", failed.message().unwrap_or_default().to_owned()),
            Some(Err(_)) => ("failed", "it panicked; the message is above".to_owned()),
            None => ("failed", "the worker does not have it".to_owned()),
        };
        let Ok(found) = serde_json::to_string(&found) else { return ExitCode::FAILURE };
        println!("{MARK}{found}");
    }
    ExitCode::SUCCESS
}

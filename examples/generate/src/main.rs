//! `generate`: continues prompts, each in a conversation of its own, all in the same steps.

use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::Parser;
use linear_attention::wgpu::{self, Backends};
use linear_attention_generate::{
    Conversation, Engine, MAX_CONVERSATIONS, Model, Sampling, advance,
};

const MODEL: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../burn/data/language_model/model.safetensors");

/// Continues prompts with a small language model of linear attention
#[derive(Parser)]
struct Args {
    /// The prompts to continue; several are computed in one batch, at most 16
    #[arg(default_value = "Anne ")]
    prompts: Vec<String>,
    /// Bytes to write after each prompt
    #[arg(long, default_value_t = 400)]
    tokens: usize,
    /// The seed of the first prompt's random numbers; the second prompt has the next seed, and so
    /// on
    #[arg(long, default_value_t = Sampling::default().seed)]
    seed: u64,
    /// 0 takes the likeliest byte, 1 samples as the model has learned
    #[arg(long, default_value_t = Sampling::default().temperature)]
    temperature: f32,
    /// A part of an adapter's name, or cpu for the CPU engine; without it a GPU if there is one
    #[arg(long, value_name = "SUBSTRING")]
    adapter: Option<String>,
    /// A model that burn/examples/language_model trained
    #[arg(long, value_name = "FILE", default_value = MODEL)]
    model: PathBuf,
}

fn main() {
    if let Err(error) = run(&Args::parse()) {
        eprintln!("error: {error}");
        std::process::exit(1);
    }
}

fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    if args.prompts.len() > MAX_CONVERSATIONS {
        let found = args.prompts.len();
        return Err(format!("expected at most {MAX_CONVERSATIONS} prompts, found {found}").into());
    }
    if !(args.temperature >= 0.0 && args.temperature.is_finite()) {
        return Err(format!("--temperature must be at least 0, found {}", args.temperature).into());
    }
    let bytes = std::fs::read(&args.model)
        .map_err(|error| format!("--model {}: {error}", args.model.display()))?;
    let (mut engine, name) = open(Model::from_safetensors(&bytes)?, args.adapter.as_deref())?;
    let mut conversations = Vec::new();
    for (i, prompt) in args.prompts.iter().enumerate() {
        let seed = args.seed.wrapping_add(i as u64);
        let sampling = Sampling { seed, temperature: args.temperature };
        conversations.push(Conversation::begin(&engine, prompt.as_bytes(), sampling)?);
    }
    let mut streams: Vec<Stream> = (1..).map(Stream::new).take(conversations.len()).collect();
    let end = |one: &Conversation| one.text().len().saturating_add(args.tokens);
    let ends: Vec<usize> = conversations.iter().map(end).collect();
    let (begin, mut read, mut written) = (Instant::now(), 0, 0);
    loop {
        let is_open = |(one, end): &(&mut Conversation, &usize)| one.text().len() < **end;
        let open = conversations.iter_mut().zip(&ends).filter(is_open);
        let mut open: Vec<&mut Conversation> = open.map(|(one, _)| one).collect();
        if open.is_empty() {
            break;
        }
        let before: usize = open.iter().map(|one| one.text().len()).sum();
        read += pollster::block_on(advance(&mut engine, &mut open))?;
        written += open.iter().map(|one| one.text().len()).sum::<usize>() - before;
        let is_one = conversations.len() == 1;
        for (stream, one) in streams.iter_mut().zip(&conversations) {
            stream.print(one.text(), is_one)?;
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    for (stream, one) in streams.iter_mut().zip(&conversations) {
        stream.end(one.text())?;
    }
    let (state, cache) = (engine.model().state_bytes()?, engine.model().cache_bytes_per_token());
    let tokens = conversations.iter().map(|one| one.text().len()).max().unwrap_or(0) as u64;
    println!("\n{name}: {read} bytes read and {written} written in {seconds:.2} s");
    println!("{:.0} tokens/s", written as f64 / seconds);
    println!(
        "the state of a conversation: {state} bytes, however long it is; \
         keys and values of {tokens} tokens: {}",
        cache * tokens
    );
    conversations.into_iter().try_for_each(|one| one.end(&engine))?;
    Ok(())
}

/// The part of a conversation's text that was printed: as it comes if there is one, line by line
/// behind its number if there are several.
struct Stream {
    number: usize,
    printed: usize,
}

impl Stream {
    fn new(number: usize) -> Self {
        Self { number, printed: 0 }
    }

    fn print(&mut self, text: &[u8], is_one: bool) -> io::Result<()> {
        let new = &text[self.printed..];
        let mut out = io::stdout().lock();
        if is_one {
            // A character of several bytes is printed whole.
            let valid = match std::str::from_utf8(new) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => new.len(),
            };
            out.write_all(String::from_utf8_lossy(&new[..valid]).as_bytes())?;
            self.printed += valid;
        } else if let Some(end) = new.iter().rposition(|byte| *byte == b'\n') {
            for line in new[..end].split(|byte| *byte == b'\n') {
                writeln!(out, "{:>2} | {}", self.number, String::from_utf8_lossy(line))?;
            }
            self.printed += end + 1;
        }
        out.flush()
    }

    fn end(&mut self, text: &[u8]) -> io::Result<()> {
        if self.printed < text.len() {
            let rest = String::from_utf8_lossy(&text[self.printed..]);
            writeln!(io::stdout(), "{:>2} | {rest}", self.number)?;
        } else {
            println!();
        }
        Ok(())
    }
}

/// The engine that `wanted` names, and its name.
fn open(model: Model, wanted: Option<&str>) -> Result<(Engine, String), Box<dyn Error>> {
    if wanted == Some("cpu") {
        return Ok((Engine::on_cpu(model)?, "CPU engine".to_owned()));
    }
    let backends = Backends::PRIMARY;
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapters = pollster::block_on(instance.enumerate_adapters(backends));
    let mut adapters = adapters.into_iter().map(|adapter| (adapter.get_info(), adapter));
    let Some(wanted) = wanted else {
        let is_gpu = |info: &wgpu::AdapterInfo| info.device_type != wgpu::DeviceType::Cpu;
        return match adapters.find(|(info, _)| is_gpu(info)) {
            Some((info, adapter)) => on_adapter(model, &adapter, info.name),
            None => Ok((Engine::on_cpu(model)?, "CPU engine".to_owned())),
        };
    };
    let is_it = |name: &str| name.to_lowercase().contains(&wanted.to_lowercase());
    match adapters.find(|(info, _)| is_it(&info.name)) {
        Some((info, adapter)) => on_adapter(model, &adapter, info.name),
        None => Err(format!("--adapter {wanted}: expected a part of an adapter's name").into()),
    }
}

fn on_adapter(
    model: Model,
    adapter: &wgpu::Adapter,
    name: String,
) -> Result<(Engine, String), Box<dyn Error>> {
    let descriptor = wgpu::DeviceDescriptor {
        required_limits: adapter.limits(),
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))?;
    Ok((Engine::on_device(model, &device, &queue)?, name))
}

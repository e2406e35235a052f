//! Trains a language model of bytes on the text of a novel, on the CPU or, with `--wgpu`, on a GPU.
//!
//!     cargo run --release --example language_model -- [--steps N] [--out FOLDER] [--wgpu | --plot]
//!
//! The folder gets `init.safetensors`, with which `train.py` begins as well, `model.safetensors`
//! every 100 steps, `loss.csv`, and `loss.svg`, which also has the curve of `loss-torch.csv` if
//! that is there. `--plot` only draws it anew.

mod model;
mod plot;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use burn::grad_clipping::GradientClippingConfig;
use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Device, Int, Tensor, TensorData, activation};
use indicatif::{ProgressBar, ProgressStyle};

use model::{Model, ModelConfig, States};

const BATCH: usize = 16;
const TOKENS: usize = 256;
const LEARNING_RATE: f64 = 3e-3;
const WARM_UP: usize = 50;
/// Steps between two checkpoints.
const STORE_EVERY: usize = 100;

type AnyError = Box<dyn std::error::Error>;

fn main() -> Result<(), AnyError> {
    let options = Options::parse()?;
    if options.is_plot {
        return draw(&options.out);
    }
    let device = options.device()?.autodiff();
    device.seed(1);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read(folder.join("data/persuasion.txt"))?;
    // The last tenth of the novel is kept for validation.
    let (train, valid) = text.split_at(text.len() / 10 * 9);
    fs::create_dir_all(&options.out)?;

    let config = ModelConfig::new();
    let mut model = config.init(&device)?;
    println!("{} parameters", model.num_params());
    store(&config, &model, &options.out.join("init.safetensors"))?;
    let clipping = GradientClippingConfig::Norm(1.0);
    let mut optimizer =
        AdamWConfig::new().with_beta_2(0.99).with_grad_clipping(Some(clipping)).init();
    let mut csv = fs::File::create(options.out.join("loss.csv"))?;
    writeln!(csv, "step,train,valid")?;

    let bar = ProgressBar::new(options.steps as u64).with_style(ProgressStyle::with_template(
        "{bar:30} {pos}/{len} {elapsed} of {duration}, loss {msg}",
    )?);
    let mut random = Random(1);
    let mut mean = None;
    for step in 0..=options.steps {
        if step % STORE_EVERY == 0 || step == options.steps {
            let valid = validation(&model, valid, &device)?;
            let train = mean.map_or(String::new(), |mean: f64| mean.to_string());
            writeln!(csv, "{step},{train},{valid}")?;
            // A run without a terminal has no bar, and prints all the same.
            bar.suspend(|| println!("step {step}: validation loss {valid:.4}"));
            store(&config, &model, &options.out.join("model.safetensors"))?;
            if step == options.steps {
                break;
            }
        }
        let (tokens, next) =
            batch(train, BATCH, &device, || random.below(train.len() - TOKENS - 1));
        let loss = model.loss(tokens, next)?;
        let value: f64 = loss.clone().into_data().iter::<f64>().sum();
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        model = optimizer.step(learning_rate(step, options.steps), model, gradients);
        // Over some ten steps.
        mean = Some(mean.map_or(value, |mean| 0.9 * mean + 0.1 * value));
        bar.set_message(format!("{value:.3}"));
        bar.inc(1);
    }
    bar.finish();
    draw(&options.out)?;
    println!("{}", sample(&model.valid(), &device.without_autodiff(), "She ", 400)?);
    Ok(())
}

fn draw(folder: &Path) -> Result<(), AnyError> {
    let [ours, torch, svg] =
        ["loss.csv", "loss-torch.csv", "loss.svg"].map(|name| folder.join(name));
    plot::plot(&ours, &torch, &svg)
}

/// Warm-up, then half a cosine down to a tenth.
fn learning_rate(step: usize, steps: usize) -> f64 {
    let warm_up = ((step + 1) as f64 / WARM_UP as f64).min(1.0);
    let progress = step as f64 / steps as f64;
    let cosine = 0.5 * (1.0 + (std::f64::consts::PI * progress).cos());
    LEARNING_RATE * warm_up * (0.1 + 0.9 * cosine)
}

/// The mean loss of 16 stretches of text that lie evenly.
fn validation(model: &Model, text: &[u8], device: &Device) -> Result<f64, AnyError> {
    let device = device.clone().without_autodiff();
    let mut begins = (0..16).map(|i| i * (text.len() - TOKENS - 1) / 15);
    let (tokens, next) = batch(text, 16, &device, || begins.next().unwrap_or(0));
    Ok(model.valid().loss(tokens, next)?.into_data().iter::<f64>().sum())
}

/// Stretches of text, and the same a byte later.
fn batch(
    text: &[u8],
    size: usize,
    device: &Device,
    mut begin: impl FnMut() -> usize,
) -> (Tensor<2, Int>, Tensor<2, Int>) {
    let begins: Vec<usize> = (0..size).map(|_| begin()).collect();
    let of = |shift: usize| {
        let stretches = begins.iter().flat_map(|begin| &text[begin + shift..][..TOKENS]);
        let tokens: Vec<i32> = stretches.map(|byte| i32::from(*byte)).collect();
        Tensor::from_data(TensorData::new(tokens, [size, TOKENS]), device)
    };
    (of(0), of(1))
}

fn store(config: &ModelConfig, model: &Model, path: &Path) -> Result<(), AnyError> {
    let config = serde_json::to_string(config)?;
    let mut store = SafetensorsStore::from_file(path).overwrite(true).metadata("config", config);
    model.save_into(&mut store)?;
    Ok(())
}

/// A text that the model goes on with: the prompt at once, then byte by byte from the states.
fn sample(model: &Model, device: &Device, prompt: &str, tokens: usize) -> Result<String, AnyError> {
    let mut states = States::new();
    let mut text = prompt.as_bytes().to_vec();
    let mut random = Random(7);
    let mut from = 0;
    for _ in 0..tokens {
        let new: Vec<i32> = text[from..].iter().map(|byte| i32::from(*byte)).collect();
        let dims = [1, new.len()];
        let new = Tensor::from_data(TensorData::new(new, dims), device);
        from = text.len();
        let logits = model.forward_with_states(new, &mut states)?;
        let [_, len, vocabulary] = logits.dims();
        let last = logits.slice([0..1, len - 1..len, 0..vocabulary]) / 0.7;
        let weights = activation::softmax(last, 2).into_data();
        let mut left = random.next() as f64 / u64::MAX as f64;
        let chosen = weights.iter::<f64>().position(|weight| {
            left -= weight;
            left <= 0.0
        });
        text.push(chosen.unwrap_or(0) as u8);
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// xorshift64*, as `train.py` has it, so that both see the same batches.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, end: usize) -> usize {
        ((self.next() >> 33) % end as u64) as usize
    }
}

struct Options {
    steps: usize,
    out: PathBuf,
    is_wgpu: bool,
    is_plot: bool,
}

impl Options {
    fn parse() -> Result<Self, AnyError> {
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/language_model");
        let mut options = Self { steps: 1000, out, is_wgpu: false, is_plot: false };
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} lacks a value"));
            match argument.as_str() {
                "--steps" => options.steps = value()?.parse()?,
                "--out" => options.out = value()?.into(),
                "--wgpu" => options.is_wgpu = true,
                "--plot" => options.is_plot = true,
                _ => {
                    return Err(format!(
                        "--steps, --out, --wgpu or --plot expected, found {argument}"
                    )
                    .into());
                }
            }
        }
        if options.steps == 0 {
            return Err("--steps must be at least 1, found 0".into());
        }
        Ok(options)
    }

    fn device(&self) -> Result<Device, AnyError> {
        match self.is_wgpu {
            true => Ok(linear_attention_burn::init(Device::wgpu_options())?),
            false => Ok(Device::flex()),
        }
    }
}

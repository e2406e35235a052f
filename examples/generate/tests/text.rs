//! The text that the model writes, on the CPU engine and on each adapter.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::path::Path;

use linear_attention::wgpu;
use linear_attention_generate::{
    Conversation, Engine, Error, MAX_CONVERSATIONS, Model, Piece, Sampling, advance,
};
use pollster::block_on;

fn data(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../burn/data").join(name)).unwrap()
}

fn model() -> Model {
    Model::from_safetensors(&data("language_model/model.safetensors")).unwrap()
}

/// The CPU engine, and an engine on wgpu's first adapter. Without an adapter there is only one,
/// unless `LINEAR_ATTENTION_REQUIRE_GPU` is 1.
fn engines() -> Vec<Engine> {
    let mut engines = vec![Engine::on_cpu(model()).unwrap()];
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    match block_on(instance.request_adapter(&wgpu::RequestAdapterOptions::default())) {
        Ok(adapter) => {
            let descriptor = wgpu::DeviceDescriptor::default();
            let (device, queue) = block_on(adapter.request_device(&descriptor)).unwrap();
            engines.push(Engine::on_device(model(), &device, &queue).unwrap());
        }
        Err(error) => {
            let required = std::env::var_os("LINEAR_ATTENTION_REQUIRE_GPU");
            assert!(required.is_none_or(|value| value != "1"), "{error}");
            eprintln!("without a device, since there is no adapter: {error}");
        }
    }
    engines
}

fn begin(engine: &Engine, prompt: &str, seed: u64) -> Conversation {
    let sampling = Sampling { seed, temperature: 0.7 };
    Conversation::begin(engine, prompt.as_bytes(), sampling).unwrap()
}

fn write(engine: &mut Engine, conversation: &mut Conversation, bytes: usize) {
    let end = conversation.text().len() + bytes;
    while conversation.text().len() < end {
        block_on(advance(engine, &mut [conversation])).unwrap();
    }
}

/// The loss that the training printed, of the stretches of text that it took.
#[test]
fn the_cpu_engine_has_the_loss_of_the_training() {
    const TOKENS: usize = 256;
    let text = data("persuasion.txt");
    let text = &text[text.len() / 10 * 9..];
    let begins: Vec<usize> = (0..16).map(|i| i * (text.len() - TOKENS - 1) / 15).collect();
    let mut engine = Engine::on_cpu(model()).unwrap();
    let states: Vec<_> = begins.iter().map(|_| engine.begin().unwrap()).collect();
    let mut loss = 0.0;
    for t in 0..TOKENS {
        let of = |begin: &usize| &text[begin + t..=begin + t];
        let pieces: Vec<_> = states
            .iter()
            .zip(&begins)
            .map(|(states, begin)| Piece { states, tokens: of(begin) })
            .collect();
        let logits = block_on(engine.step(&pieces)).unwrap();
        for (row, begin) in logits.chunks(256).zip(&begins) {
            let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
            loss += sum.ln() - f64::from(row[usize::from(text[begin + t + 1])]);
        }
    }
    loss /= (16 * TOKENS) as f64;
    assert!((loss - 1.4272).abs() < 1e-3, "{loss}");
}

#[test]
fn every_engine_writes_the_same_text_alone_and_in_a_batch() {
    let mut texts = Vec::new();
    for mut engine in engines() {
        let mut alone = begin(&engine, "Anne ", 7);
        write(&mut engine, &mut alone, 60);
        texts.push(alone.text().to_vec());
        alone.end(&engine).unwrap();

        let prompts = ["Captain Wentworth ", "Anne ", "It was"];
        let mut batch: Vec<_> =
            prompts.iter().zip(6..).map(|(prompt, seed)| begin(&engine, prompt, seed)).collect();
        for _ in 0..60 {
            let mut all: Vec<_> = batch.iter_mut().collect();
            block_on(advance(&mut engine, &mut all)).unwrap();
        }
        texts.push(batch[1].text().to_vec());
    }
    let first = String::from_utf8_lossy(&texts[0]);
    assert!(first.starts_with("Anne ") && first.len() == 65, "{first}");
    for text in &texts {
        assert_eq!(first, String::from_utf8_lossy(text));
    }
}

#[test]
fn a_conversation_goes_on_from_a_fork_and_from_bytes_on_every_engine() {
    let mut engines = engines();
    let mut expected = None;
    let mut paused = Vec::new();
    for engine in &mut engines {
        let mut conversation = begin(engine, "Sir Walter Elliot, of ", 3);
        write(engine, &mut conversation, 10);
        paused.push(block_on(conversation.to_bytes(engine)).unwrap());
        let mut fork = conversation.fork(engine, 99).unwrap();
        write(engine, &mut conversation, 20);
        write(engine, &mut fork, 20);
        assert_ne!(fork.text(), conversation.text());
        assert_eq!(fork.text()[..32], conversation.text()[..32]);
        let expected = expected.get_or_insert_with(|| conversation.text().to_vec());
        assert_eq!(expected, conversation.text());
    }
    for engine in &mut engines {
        for bytes in &paused {
            let mut conversation = Conversation::from_bytes(engine, bytes).unwrap();
            write(engine, &mut conversation, 20);
            assert_eq!(expected.as_deref(), Some(conversation.text()));
        }
    }
}

#[test]
fn a_long_prompt_is_read_in_several_steps() {
    let text = data("persuasion.txt");
    let mut engine = Engine::on_cpu(model()).unwrap();
    let mut long = Conversation::begin(&engine, &text[..1300], Sampling::default()).unwrap();
    let mut short = begin(&engine, "Anne ", 7);
    let mut read = Vec::new();
    while long.text().len() == 1300 {
        let both = &mut [&mut long, &mut short];
        read.push(block_on(advance(&mut engine, both)).unwrap());
    }
    assert_eq!(read.iter().sum::<usize>(), 1300 + 5 + read.len() - 1);
    assert!(read.len() > 2 && read.iter().all(|tokens| *tokens <= 512), "{read:?}");
    let mut alone = begin(&engine, "Anne ", 7);
    write(&mut engine, &mut alone, read.len());
    assert_eq!(alone.text(), short.text());
}

#[test]
fn bad_input_is_refused_by_name() {
    let says = |error: Error, part: &str| assert!(error.to_string().contains(part), "{error}");
    says(Model::from_safetensors(b"no model").unwrap_err(), "safetensors");
    let mut engine = Engine::on_cpu(model()).unwrap();
    says(block_on(engine.step(&[])).unwrap_err(), "1 to 16, found 0");
    let mut all: Vec<_> = (0..MAX_CONVERSATIONS).map(|_| begin(&engine, "", 1)).collect();
    says(Conversation::begin(&engine, b"", Sampling::default()).unwrap_err(), "slots");
    says(all[0].fork(&engine, 1).unwrap_err(), "slots");
    let mut bytes = block_on(all[0].to_bytes(&engine)).unwrap();
    all.pop().unwrap().end(&engine).unwrap();
    says(Conversation::from_bytes(&engine, &bytes[..40]).unwrap_err(), "all bytes");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    says(Conversation::from_bytes(&engine, &bytes).unwrap_err(), "checksum");
    bytes[last] ^= 1;
    for more in 1..=3 {
        let longer = [&bytes[..], &[0; 3][..more]].concat();
        says(Conversation::from_bytes(&engine, &longer).unwrap_err(), "all bytes");
    }
    let header = usize::from(bytes[0]);
    let text = String::from_utf8(bytes[4..4 + header].to_vec()).unwrap();
    let negative = text.replace(r#""temperature":0.7"#, r#""temperature":-1 "#);
    assert_ne!(text, negative);
    let other = [&bytes[..4], negative.as_bytes(), &bytes[4 + header..]].concat();
    says(Conversation::from_bytes(&engine, &other).unwrap_err(), "temperature");
    let no_json =
        [&bytes[..4], &text.replace('{', "[").into_bytes(), &bytes[4 + header..]].concat();
    says(Conversation::from_bytes(&engine, &no_json).unwrap_err(), "a paused conversation");
    for temperature in [f32::NAN, f32::INFINITY, -1.0] {
        let sampling = Sampling { seed: 1, temperature };
        says(Conversation::begin(&engine, b"", sampling).unwrap_err(), "temperature");
    }
    // Those that were refused took no slot.
    let back = Conversation::from_bytes(&engine, &bytes).unwrap();
    assert_eq!(back.text(), b"\n");
}

#[test]
fn a_weight_that_is_not_finite_is_refused_by_name() {
    let mut file = data("language_model/model.safetensors");
    let last = file.len() - 4;
    file[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let refused = Model::from_safetensors(&file).err().map(|error| error.to_string());
    assert!(refused.as_ref().is_some_and(|text| text.contains("finite, found NaN")), "{refused:?}");
}

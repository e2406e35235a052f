//! The weights of the example `language_model`, on each device.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests may panic")]

mod common;
#[path = "../examples/language_model/model.rs"]
mod model;

use burn::store::{ModuleSnapshot, SafetensorsStore};
use burn::tensor::{Device, Int, Tensor, TensorData};
use model::{ModelConfig, States};

#[test]
fn the_trained_model_has_the_loss_that_is_said() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let text = std::fs::read(folder.join("persuasion.txt")).unwrap();
    let text = &text[text.len() / 10 * 9..];
    let mut devices = vec![Device::flex()];
    #[cfg(feature = "wgpu")]
    devices.extend(common::wgpu());
    for device in devices {
        let mut model = ModelConfig::new().init(&device).unwrap();
        let mut store =
            SafetensorsStore::from_file(folder.join("language_model/model.safetensors"));
        model.load_from(&mut store).unwrap();
        let tokens = |begin: usize| {
            let bytes: Vec<i32> =
                text[begin..][..256].iter().map(|byte| i32::from(*byte)).collect();
            Tensor::<2, Int>::from_data(TensorData::new(bytes, [1, 256]), &device)
        };
        let mut sum = 0.0;
        for begin in (0..16).map(|i| i * (text.len() - 257) / 15) {
            sum += model.loss(tokens(begin), tokens(begin + 1)).unwrap().into_scalar::<f32>();
        }
        assert!((sum / 16.0 - 1.4272).abs() < 1e-3, "{} on {device:?}", sum / 16.0);

        let whole = model.forward(tokens(0)).unwrap();
        let mut states = States::new();
        let mut parts = Vec::new();
        for range in [0..100, 100..101, 101..256] {
            let part = tokens(0).slice([0..1, range]);
            parts.push(model.forward_with_states(part, &mut states).unwrap());
        }
        let worst = common::error(&Tensor::cat(parts, 1).into_data(), &whole.into_data());
        assert!(worst < 1e-4, "{worst:e} on {device:?}");
    }
}

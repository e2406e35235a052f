//! The devices of the page: the visitor's GPU or, without WebGPU, the CPU engine.

use std::sync::Arc;

use js_sys::Function;
use linear_attention::cpu::CpuAttention;
use linear_attention::{Config, wgpu};
use wasm_bindgen::prelude::*;

/// The visitor's GPU, or the CPU engine in WebAssembly.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Computer {
    pub(crate) gpu: Option<(wgpu::Device, wgpu::Queue)>,
}

#[wasm_bindgen]
impl Computer {
    /// A device of the page's preferred adapter. `on_lost` gets a sentence where the device is
    /// lost, or fails without a call that says so; what runs on it ends with an error then.
    ///
    /// # Errors
    ///
    /// There is no WebGPU, no adapter or no device.
    pub async fn gpu(on_lost: Function) -> Result<Self, JsError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions {
            power_preference: wgpu::PowerPreference::HighPerformance,
            ..wgpu::RequestAdapterOptions::default()
        };
        let adapter = instance.request_adapter(&options).await?;
        let descriptor = wgpu::DeviceDescriptor {
            required_limits: adapter.limits(),
            ..wgpu::DeviceDescriptor::default()
        };
        let (device, queue) = adapter.request_device(&descriptor).await?;
        let say = Said(on_lost);
        let lost = say.clone();
        device.set_device_lost_callback(move |reason, message| {
            lost.say(&format!("The GPU was lost ({reason:?}): {message}"));
        });
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            say.say(&format!("The GPU failed: {error}"));
        }));
        Ok(Self { gpu: Some((device, queue)) })
    }

    /// The CPU engine.
    pub fn cpu() -> Self {
        Self { gpu: None }
    }

    /// The vectors that the CPU engine has here.
    pub fn vectors() -> String {
        let engine = CpuAttention::new(Config::new(64, 64));
        engine.map_or("none", |engine| engine.instruction_set()).to_owned()
    }

    /// Loses the device, as an update of its driver would: for the page's tests.
    pub fn lose(&self) {
        if let Some((device, _)) = &self.gpu {
            device.destroy();
        }
    }
}

/// A function of the page. Everything here runs in one worker, on one thread.
#[derive(Clone, Debug)]
struct Said(Function);

// SAFETY: wasm32 without threads has one thread.
unsafe impl Send for Said {}
// SAFETY: as above.
unsafe impl Sync for Said {}

impl Said {
    fn say(&self, message: &str) {
        // An exception of the page has no other receiver.
        let _ = self.0.call1(&JsValue::NULL, &message.into());
    }
}

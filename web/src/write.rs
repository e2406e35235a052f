//! Conversations with the language model.

use std::collections::BTreeMap;

use linear_attention_generate::{Conversation, Engine, Model, Sampling, advance};
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::computer::Computer;

/// The model on a computer, and its conversations by number.
#[wasm_bindgen]
pub struct Writer {
    engine: Engine,
    conversations: BTreeMap<u32, Conversation>,
    next: u32,
}

#[wasm_bindgen]
impl Writer {
    /// With a model's safetensors file.
    ///
    /// # Errors
    ///
    /// A file that is no model, or limits that are too small for it.
    #[wasm_bindgen(constructor)]
    pub fn new(computer: &Computer, model: &[u8]) -> Result<Writer, JsError> {
        let model = Model::from_safetensors(model)?;
        let engine = match &computer.gpu {
            Some((device, queue)) => Engine::on_device(model, device, queue)?,
            None => Engine::on_cpu(model)?,
        };
        Ok(Self { engine, conversations: BTreeMap::new(), next: 0 })
    }

    /// Bytes of a conversation's states, and of keys and values that softmax attention would keep
    /// for each token, as JSON.
    ///
    /// # Errors
    ///
    /// None for a model that runs.
    pub fn memory(&self) -> Result<String, JsError> {
        let model = self.engine.model();
        let (state, cache) = (model.state_bytes()?, model.cache_bytes_per_token());
        Ok(json!({ "state": state, "cachePerToken": cache }).to_string())
    }

    /// A new conversation's number.
    ///
    /// # Errors
    ///
    /// There are 16.
    pub fn begin(&mut self, prompt: &str, seed: u32, temperature: f32) -> Result<u32, JsError> {
        let sampling = Sampling { seed: seed.into(), temperature };
        let conversation = Conversation::begin(&self.engine, prompt.as_bytes(), sampling)?;
        Ok(self.keep(conversation))
    }

    /// The number of a conversation that goes on from the state of another.
    ///
    /// # Errors
    ///
    /// There are 16, or there is none of that number.
    pub fn fork(&mut self, number: u32, seed: u32) -> Result<u32, JsError> {
        let fork = self.get(number)?.fork(&self.engine, seed.into())?;
        Ok(self.keep(fork))
    }

    /// Ends a conversation.
    ///
    /// # Errors
    ///
    /// There is none of that number.
    pub fn end(&mut self, number: u32) -> Result<(), JsError> {
        match self.conversations.remove(&number) {
            Some(conversation) => Ok(conversation.end(&self.engine)?),
            None => Err(unknown(number)),
        }
    }

    /// A conversation as bytes, which then may end.
    ///
    /// # Errors
    ///
    /// There is none of that number, or the device was lost.
    pub async fn pause(&self, number: u32) -> Result<Vec<u8>, JsError> {
        Ok(self.get(number)?.to_bytes(&self.engine).await?)
    }

    /// The number of a conversation that was bytes.
    ///
    /// # Errors
    ///
    /// Bytes that are damaged or of another model, or there are 16.
    pub fn resume(&mut self, bytes: &[u8]) -> Result<u32, JsError> {
        let conversation = Conversation::from_bytes(&self.engine, bytes)?;
        Ok(self.keep(conversation))
    }

    /// One step of these conversations, all in one batch; returns how many bytes were read.
    ///
    /// # Errors
    ///
    /// There is none of one of these numbers, or the device was lost.
    pub async fn step(&mut self, numbers: &[u32]) -> Result<u32, JsError> {
        if let Some(number) = numbers.iter().find(|n| !self.conversations.contains_key(n)) {
            return Err(unknown(*number));
        }
        let mut chosen: Vec<_> = self
            .conversations
            .iter_mut()
            .filter(|(number, _)| numbers.contains(number))
            .map(|(_, conversation)| conversation)
            .collect();
        Ok(advance(&mut self.engine, &mut chosen).await? as u32)
    }

    /// The prompt and what was written, so far.
    ///
    /// # Errors
    ///
    /// There is none of that number.
    pub fn text(&self, number: u32) -> Result<Vec<u8>, JsError> {
        Ok(self.get(number)?.text().to_vec())
    }

    fn keep(&mut self, conversation: Conversation) -> u32 {
        let number = self.next;
        self.next += 1;
        self.conversations.insert(number, conversation);
        number
    }

    fn get(&self, number: u32) -> Result<&Conversation, JsError> {
        self.conversations.get(&number).ok_or_else(|| unknown(number))
    }
}

fn unknown(number: u32) -> JsError {
    JsError::new(&format!("expected the number of a conversation, found {number}"))
}

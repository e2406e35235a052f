//! The dispatches of a call, interpreted.

use std::collections::HashMap;
use std::rc::Rc;

use linear_attention_interpreter::{
    Buffer, Checks, Fault, Memory, Shader, Statistics, View, dispatch,
};

use super::call::Prepared;
use crate::bind::bound::{Content, contents, entries};
use crate::kernel::stage::Stage;
use crate::problem::tensor::Tensor;

/// A change to a module before it is parsed.
pub(super) type Edit<'a> = &'a dyn Fn(Stage, String) -> String;

/// Runs calls, and keeps the modules that it has parsed.
#[derive(Default)]
pub(super) struct Runner<'a> {
    pub(super) shaders: HashMap<String, Rc<Shader>>,
    pub(super) edit: Option<Edit<'a>>,
    /// Scratch is filled with words of the caller's after each stage, so that results are wrong and
    /// only bounds, barriers and loops are checked.
    pub(super) spoils_scratch: bool,
    pub(super) modules: usize,
    pub(super) dispatches: u64,
    pub(super) statistics: Statistics,
}

/// The memory that a call leaves behind.
pub(super) struct Found {
    pub(super) o: Vec<f32>,
    /// Of all sequences, or of all slots.
    pub(super) states: Vec<f32>,
    pub(super) ignored: u32,
}

impl Runner<'_> {
    /// The output and the states of a call.
    pub(super) fn run(&mut self, call: &Prepared<'_>) -> Result<Found, String> {
        let mut memory = Memory::default();
        let mut buffers = HashMap::new();
        let scratch_len = call.plan.scratch_size() as usize / 4;
        let mut scratch = memory.add(Buffer::undefined("scratch", scratch_len));
        let state = if call.plan.shape().slots.is_some() || call.has_final() {
            call.plan.final_state()
        } else {
            Tensor::InitialState
        };
        let states = call.call.states;
        let memory_of = crate::plan::steps::Memory {
            is_untrusted: call.call.is_untrusted,
            ..crate::plan::steps::Memory::default()
        };
        let steps = call.plan.steps(states, memory_of);
        let submissions = call.plan.submissions(call.call.is_untrusted);
        for piece in submissions.iter().flat_map(|submission| &submission.pieces) {
            let step = &steps[piece.dispatch];
            if self.spoils_scratch {
                let seed = self.dispatches as u32;
                let garbage = (0..scratch_len as u32).map(|i| garbage(seed, i, &call.plan));
                scratch = memory.add(Buffer::new("scratch", garbage.collect()));
            }
            let mut views = Vec::new();
            let len = |tensor| call.len(tensor);
            for (binding, content) in
                contents(&call.plan, (step, piece), call.call.case.weights, len)
            {
                let (buffer, begin, len) = match content {
                    Content::Params(params) => {
                        let words: Vec<u32> = bytemuck::pod_collect_to_vec(&[params]);
                        let len = words.len();
                        (memory.add(Buffer::new("params", words)), 0, len)
                    }
                    Content::Entries => {
                        let words = entries(&call.plan);
                        let len = words.len();
                        (memory.add(Buffer::new("sequences", words)), 0, len)
                    }
                    Content::Tensor(tensor, len) => {
                        let make = || memory.add(call.buffer(tensor));
                        (*buffers.entry(tensor).or_insert_with(make), 0, len as usize / 4)
                    }
                    Content::Scratch(range) => {
                        let len = (range.end - range.start) as usize / 4;
                        (scratch, range.start as usize / 4, len)
                    }
                    Content::Dummy => continue,
                };
                views.push(View { binding: binding as u32, buffer, begin, len });
            }
            let (config, layout) = (call.plan.config(), call.plan.layout());
            let module = step.stage.module(config, layout, step.variant);
            let wgsl = match self.edit {
                Some(edit) => edit(step.stage, module.wgsl.clone()),
                None => module.wgsl.clone(),
            };
            let told = |fault: Fault| module.locate(&fault.to_string());
            let shader = self.shader(wgsl).map_err(told)?;
            let is_counted = step.stage.kernel().has_tile && step.variant.decode.is_none();
            let (required, actual) = (layout.workgroup_memory(config), shader.workgroup_memory());
            if is_counted && actual > required {
                let name = step.stage.name();
                return Err(format!("{name}: {actual} bytes of workgroup memory, not {required}"));
            }
            let checks = Checks { reads: !self.spoils_scratch, races: !self.spoils_scratch };
            let done = dispatch(&shader, &views, &mut memory, piece.workgroups, checks);
            let done = done.map_err(told)?;
            self.dispatches += 1;
            self.statistics.invocations += done.invocations;
            self.statistics.accesses += done.accesses;
        }
        let words = |tensor: Tensor| -> Vec<u32> {
            buffers.get(&tensor).map(|i| memory.buffer(*i).words().to_vec()).unwrap_or_default()
        };
        let o = bytemuck::cast_slice(&words(Tensor::O)).to_vec();
        let o_len = call.plan.lens().o as usize;
        Ok(Found {
            o: call.plan.config().dtype.decode(&o, o_len),
            states: bytemuck::cast_slice(&words(state)).to_vec(),
            ignored: words(Tensor::Sequences).first().copied().unwrap_or(0),
        })
    }

    fn shader(&mut self, wgsl: String) -> Result<Rc<Shader>, Fault> {
        if let Some(shader) = self.shaders.get(&wgsl) {
            return Ok(shader.clone());
        }
        // Calls of one config and layout come one after the other.
        if self.shaders.len() > 200 {
            self.shaders.clear();
        }
        let shader = Rc::new(Shader::parse(&wgsl)?);
        self.modules += 1;
        self.shaders.insert(wgsl, shader.clone());
        Ok(shader)
    }
}

/// A word that may be anything: small numbers, which pass for tokens, slots and segments, and
/// large ones.
fn garbage(seed: u32, i: u32, plan: &crate::plan::Plan) -> u32 {
    let mut x = (seed.wrapping_mul(0x9E37_79B9) ^ i).wrapping_mul(0x85EB_CA6B);
    x ^= x >> 15;
    let tokens = plan.shape().batch * plan.shape().seq_len;
    match x % 8 {
        0 => x,
        1 => u32::MAX - (x >> 8) % 4,
        2 => tokens + (x >> 8) % 2,
        _ => (x >> 8) % (tokens + 2),
    }
}

impl Prepared<'_> {
    /// A tensor before the call.
    fn buffer(&self, tensor: Tensor) -> Buffer {
        let (plan, sample) = (&self.plan, &self.sample);
        let weights = sample.weights.as_ref();
        let is_in_place = self.call.states == crate::plan::States::InPlace;
        let elements = match tensor {
            Tensor::Q => sample.q.clone(),
            Tensor::K => sample.k.clone(),
            Tensor::V => sample.v.clone(),
            // Anything, and half of a word is left as it was at odd widths.
            Tensor::O => vec![f32::NAN; plan.lens().o as usize],
            Tensor::Decay => sample.decay.clone(),
            Tensor::Beta => sample.beta.clone(),
            Tensor::GateWeights => sample.gate_weights.clone(),
            Tensor::FinalState if !is_in_place => {
                return Buffer::undefined("final_state", self.before.len());
            }
            Tensor::InitialState | Tensor::FinalState | Tensor::Pool => self.before.clone(),
            Tensor::Weights => {
                weights.and_then(|w| w.encode(plan.config()).ok()).unwrap_or_default()
            }
            Tensor::Sequences => {
                let mut words = [&[0], &self.call.words[..]].concat();
                // Behind the caller's words there may be anything.
                let len = self.len(tensor).unwrap_or(0) as u32 / 4;
                words.extend((words.len() as u32..len).map(|i| garbage(i, i, plan)));
                return Buffer::new("sequences", words);
            }
            Tensor::Mu | Tensor::Nu | Tensor::KeyStatus => Vec::new(),
        };
        let bytes = tensor.dtype(plan.config()).encode(&elements).into_owned();
        Buffer::new(tensor.name(), bytemuck::pod_collect_to_vec(&bytes))
    }
}

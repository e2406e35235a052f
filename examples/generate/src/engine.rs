//! A model on a device or on the CPU, and the states of its conversations.

use linear_attention::serve::{Entry, Slot};
use linear_attention::shape::PackedLimits;
use linear_attention::{Shape, wgpu};

use crate::cpu::CpuEngine;
use crate::error::Error;
use crate::gpu::GpuEngine;
use crate::model::{Model, Sizes};

/// Conversations at a time.
pub const MAX_CONVERSATIONS: usize = 16;

/// Tokens of a step, of all its conversations; a longer prompt takes several steps.
pub const MAX_STEP_TOKENS: usize = 512;

/// A model where it runs.
#[derive(Debug)]
#[non_exhaustive]
pub enum Engine {
    /// On the CPU engine.
    Cpu(Box<CpuEngine>),
    /// On a device.
    Gpu(Box<GpuEngine>),
}

/// The states of one conversation, a slot a layer. Give them back by [`Engine::end`].
#[derive(Debug)]
pub struct States(pub(crate) Vec<Slot>);

/// New tokens of a conversation.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a literal names both")]
pub struct Piece<'a> {
    /// The states before them, which become those after.
    pub states: &'a States,
    /// The tokens, at least one.
    pub tokens: &'a [u8],
}

/// The pools of states of an engine's layers.
pub(crate) trait Pools {
    fn layers(&self) -> usize;
    fn allocate(&self, layer: usize) -> Result<Slot, Error>;
    fn fork(&self, layer: usize, slot: Slot) -> Result<Slot, Error>;
    fn free(&self, layer: usize, slot: Slot) -> Result<(), Error>;
    fn restore(&self, layer: usize, bytes: &[u8]) -> Result<Slot, Error>;
}

impl Engine {
    /// On the CPU, on the threads of the rayon pool that it is made in.
    ///
    /// # Errors
    ///
    /// A model whose attention no call accepts.
    pub fn on_cpu(model: Model) -> Result<Self, Error> {
        Ok(Self::Cpu(Box::new(CpuEngine::new(model)?)))
    }

    /// On a device. Its shaders are compiled here.
    ///
    /// # Errors
    ///
    /// A model whose attention no call accepts, or limits that are too small.
    pub fn on_device(
        model: Model,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
    ) -> Result<Self, Error> {
        Ok(Self::Gpu(Box::new(GpuEngine::new(model, device, queue)?)))
    }

    /// The model.
    #[must_use]
    pub fn model(&self) -> &Model {
        match self {
            Self::Cpu(engine) => &engine.model,
            Self::Gpu(engine) => &engine.model,
        }
    }

    fn pools(&self) -> &dyn Pools {
        match self {
            Self::Cpu(engine) => &**engine,
            Self::Gpu(engine) => &**engine,
        }
    }

    /// The states before the first token.
    ///
    /// # Errors
    ///
    /// All slots are in use.
    pub fn begin(&self) -> Result<States, Error> {
        self.slots(|pools, layer| pools.allocate(layer))
    }

    /// A copy of states, with which another conversation goes on.
    ///
    /// # Errors
    ///
    /// All slots are in use, or the states are another engine's.
    pub fn fork(&self, states: &States) -> Result<States, Error> {
        self.slots(|pools, layer| pools.fork(layer, states.0[layer]))
    }

    /// Gives the slots of a conversation back.
    ///
    /// # Errors
    ///
    /// The states are another engine's.
    pub fn end(&self, states: States) -> Result<(), Error> {
        let pools = self.pools();
        states.0.into_iter().enumerate().try_for_each(|(layer, slot)| pools.free(layer, slot))
    }

    /// The states as bytes, a snapshot for each layer, that either engine restores.
    ///
    /// # Errors
    ///
    /// The states are another engine's, or the device was lost.
    pub async fn snapshots(&self, states: &States) -> Result<Vec<Vec<u8>>, Error> {
        match self {
            Self::Cpu(engine) => engine.snapshots(states),
            Self::Gpu(engine) => engine.snapshots(states).await,
        }
    }

    /// The states that snapshots hold.
    ///
    /// # Errors
    ///
    /// Bytes that are damaged or of another model; all slots are in use.
    pub fn restore(&self, snapshots: &[Vec<u8>]) -> Result<States, Error> {
        let (required, layers) = ("a snapshot of each layer", self.pools().layers());
        if snapshots.len() != layers {
            let actual = format!("{} of {layers}", snapshots.len());
            return Err(Error::Paused { required, actual });
        }
        self.slots(|pools, layer| pools.restore(layer, &snapshots[layer]))
    }

    /// A slot of each layer, or none.
    fn slots(
        &self,
        slot: impl Fn(&dyn Pools, usize) -> Result<Slot, Error>,
    ) -> Result<States, Error> {
        let pools = self.pools();
        let mut states = States(Vec::new());
        for layer in 0..pools.layers() {
            match slot(pools, layer) {
                Ok(slot) => states.0.push(slot),
                Err(error) => {
                    self.end(states)?;
                    return Err(error);
                }
            }
        }
        Ok(states)
    }

    /// The logits `[N,256]` of the byte after each piece.
    ///
    /// # Errors
    ///
    /// No piece or more than [`MAX_CONVERSATIONS`]; one without tokens; more than
    /// [`MAX_STEP_TOKENS`] in all; states of another engine, or the same twice; a lost device, after
    /// which the states are lost, too.
    pub async fn step(&mut self, pieces: &[Piece<'_>]) -> Result<Vec<f32>, Error> {
        let refuse = |what, required: String, actual| Err(Error::Step { what, required, actual });
        if !(1..=MAX_CONVERSATIONS).contains(&pieces.len()) {
            return refuse("sequences", format!("1 to {MAX_CONVERSATIONS}"), pieces.len());
        }
        if pieces.iter().any(|piece| piece.tokens.is_empty()) {
            return refuse("tokens of a sequence", "at least 1".to_owned(), 0);
        }
        let tokens: usize = pieces.iter().map(|piece| piece.tokens.len()).sum();
        if tokens > MAX_STEP_TOKENS {
            return refuse("tokens", format!("at most {MAX_STEP_TOKENS}"), tokens);
        }
        match self {
            Self::Cpu(engine) => engine.step(pieces),
            Self::Gpu(engine) => engine.step(pieces).await,
        }
    }
}

/// The calls of attention that steps have: each is planned once, for the most that it may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// A token a sequence.
    Decode,
    /// Any tokens.
    Prefill,
}

impl Call {
    pub(crate) const ALL: [Self; 2] = [Self::Decode, Self::Prefill];

    /// The one that these pieces need.
    pub(crate) fn of(pieces: &[Piece<'_>]) -> Self {
        match pieces.iter().all(|piece| piece.tokens.len() == 1) {
            true => Self::Decode,
            false => Self::Prefill,
        }
    }

    pub(crate) fn shape(self, sizes: &Sizes) -> Shape {
        let sequences = MAX_CONVERSATIONS as u32;
        let limits = match self {
            Self::Decode => PackedLimits { sequences, tokens: sequences, max_len: 1 },
            Self::Prefill => {
                let tokens = MAX_STEP_TOKENS as u32;
                PackedLimits { sequences, tokens, max_len: tokens }
            }
        };
        Shape::packed_up_to(limits, sizes.heads as u32).with_slots(sequences)
    }
}

/// The sequences of a layer.
pub(crate) fn entries(layer: usize, pieces: &[Piece<'_>]) -> Vec<Entry> {
    let entry = |piece: &Piece<'_>| Entry::new(piece.states.0[layer], piece.tokens.len() as u32);
    pieces.iter().map(entry).collect()
}

/// All tokens, one piece behind the other, and the position of the last of each.
pub(crate) fn tokens(pieces: &[Piece<'_>]) -> (Vec<u32>, Vec<u32>) {
    let (mut tokens, mut last) = (Vec::new(), Vec::new());
    for piece in pieces {
        tokens.extend(piece.tokens.iter().map(|token| u32::from(*token)));
        last.push(tokens.len() as u32 - 1);
    }
    (tokens, last)
}

//! A text that grows, and the choice of its next byte.

use serde::{Deserialize, Serialize};

use crate::engine::{Engine, MAX_STEP_TOKENS, Piece, States};
use crate::error::Error;

/// The choice of bytes.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a literal names both")]
pub struct Sampling {
    /// The seed of the random numbers: the same seed writes the same text.
    pub seed: u64,
    /// The divisor of logits: 0 takes the likeliest byte, 1 samples as the model has learned.
    pub temperature: f32,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { seed: 7, temperature: 0.7 }
    }
}

/// A text with the states after it.
#[derive(Debug)]
pub struct Conversation {
    states: States,
    parts: Parts,
}

/// All of a conversation but its states.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Parts {
    text: Vec<u8>,
    /// Bytes of the text that the states have seen.
    seen: usize,
    random: u64,
    temperature: f32,
}

impl Conversation {
    /// One that begins with a prompt; with a line feed, where that is empty.
    ///
    /// # Errors
    ///
    /// A temperature that is negative or not finite; all slots are in use.
    pub fn begin(engine: &Engine, prompt: &[u8], sampling: Sampling) -> Result<Self, Error> {
        let text = if prompt.is_empty() { b"\n" } else { prompt }.to_vec();
        let Sampling { seed, temperature } = sampling;
        // xorshift would stay at 0.
        let parts = Parts { text, seen: 0, random: seed.max(1), temperature };
        parts.check_temperature()?;
        Ok(Self { states: engine.begin()?, parts })
    }

    /// The prompt, and what was written after it.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.parts.text
    }

    /// Another that goes on from the same states, with random numbers of its own.
    ///
    /// # Errors
    ///
    /// All slots are in use.
    pub fn fork(&self, engine: &Engine, seed: u64) -> Result<Self, Error> {
        let parts = Parts { random: seed.max(1), ..self.parts.clone() };
        Ok(Self { states: engine.fork(&self.states)?, parts })
    }

    /// Gives its slots back.
    ///
    /// # Errors
    ///
    /// It is another engine's.
    pub fn end(self, engine: &Engine) -> Result<(), Error> {
        engine.end(self.states)
    }

    /// The conversation as bytes, from which either engine resumes it: the length of a JSON header
    /// as a little-endian u32, the header, and of each layer the length of a snapshot and the
    /// snapshot.
    ///
    /// # Errors
    ///
    /// It is another engine's, or the device was lost.
    pub async fn to_bytes(&self, engine: &Engine) -> Result<Vec<u8>, Error> {
        let header = serde_json::to_vec(&self.parts)?;
        let snapshots = engine.snapshots(&self.states).await?;
        let mut bytes = Vec::new();
        for part in std::iter::once(&header).chain(&snapshots) {
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        Ok(bytes)
    }

    /// The conversation that bytes hold.
    ///
    /// # Errors
    ///
    /// Bytes that are damaged or of another model; all slots are in use.
    pub fn from_bytes(engine: &Engine, bytes: &[u8]) -> Result<Self, Error> {
        let mut parts = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let cut = |found: usize, len: usize| {
                let actual = format!("{found} of {len}");
                Error::Paused { required: "all bytes of its parts", actual }
            };
            let (len, after) = rest.split_first_chunk::<4>().ok_or_else(|| cut(rest.len(), 4))?;
            let len = u32::from_le_bytes(*len) as usize;
            let (part, after) = after.split_at_checked(len).ok_or_else(|| cut(after.len(), len))?;
            parts.push(part.to_vec());
            rest = after;
        }
        let Some((header, snapshots)) = parts.split_first() else {
            return Err(Error::Paused { required: "a header", actual: "none".to_owned() });
        };
        let parts: Parts = serde_json::from_slice(header).map_err(|error| Error::Paused {
            required: "a header in JSON",
            actual: error.to_string(),
        })?;
        parts.check_temperature()?;
        if parts.random == 0 || parts.seen >= parts.text.len() {
            let actual = format!("{} of {}", parts.seen, parts.text.len());
            return Err(Error::Paused { required: "a byte that no state has seen", actual });
        }
        Ok(Self { states: engine.restore(snapshots)?, parts })
    }

    /// The byte after these logits.
    fn sample(&mut self, logits: &[f32]) -> u8 {
        let random = self.parts.next_random();
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if self.parts.temperature <= 0.0 {
            return logits.iter().position(|x| *x == largest).unwrap_or(0) as u8;
        }
        let temperature = f64::from(self.parts.temperature);
        let weight = |x: &f32| (f64::from(x - largest) / temperature).exp();
        let mut left = random * logits.iter().map(weight).sum::<f64>();
        let is_it = |x: &f32| {
            left -= weight(x);
            left <= 0.0
        };
        // Rounding may leave a little of the sum.
        logits.iter().position(is_it).unwrap_or(logits.len().saturating_sub(1)) as u8
    }
}

impl Parts {
    fn check_temperature(&self) -> Result<(), Error> {
        match self.temperature {
            actual if actual >= 0.0 && actual.is_finite() => Ok(()),
            actual => Err(Error::Temperature { actual }),
        }
    }

    /// From 0 to 1, by xorshift64*, as the training has it.
    fn next_random(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) as f64 / u64::MAX as f64
    }
}

/// One step of some conversations together: each writes a byte, or reads the next part of a long
/// prompt. Returns how many bytes were read.
///
/// # Errors
///
/// As [`Engine::step`]. The texts stay as they were then.
pub async fn advance(
    engine: &mut Engine,
    conversations: &mut [&mut Conversation],
) -> Result<usize, Error> {
    let counts = counts(conversations);
    let mut pieces = Vec::new();
    for (conversation, count) in conversations.iter().zip(&counts) {
        let Conversation { states, parts: Parts { text, seen, .. } } = &**conversation;
        pieces.push(Piece { states, tokens: &text[*seen..][..*count] });
    }
    let logits = engine.step(&pieces).await?;
    let rows = logits.chunks(engine.model().vocabulary());
    for ((conversation, count), logits) in conversations.iter_mut().zip(&counts).zip(rows) {
        conversation.parts.seen += count;
        if conversation.parts.seen == conversation.parts.text.len() {
            let byte = conversation.sample(logits);
            conversation.parts.text.push(byte);
        }
    }
    Ok(counts.iter().sum())
}

/// Bytes that each conversation reads: at least one, and of what is left first those with few, so
/// that they do not wait behind a long prompt.
fn counts(conversations: &[&mut Conversation]) -> Vec<usize> {
    let unseen =
        |conversation: &&mut Conversation| conversation.parts.text.len() - conversation.parts.seen;
    let mut counts: Vec<usize> = conversations.iter().map(unseen).collect();
    let mut order: Vec<usize> = (0..counts.len()).collect();
    order.sort_by_key(|index| counts[*index]);
    let mut room = MAX_STEP_TOKENS.saturating_sub(counts.len());
    for index in order {
        counts[index] = counts[index].min(1 + room);
        room -= counts[index] - 1;
    }
    counts
}

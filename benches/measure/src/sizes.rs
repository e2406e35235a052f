//! Sizes to measure: shapes by name, sweeps of shapes, and the shapes of the docs.

use std::fmt;
use std::str::FromStr;

use linear_attention::wgpu::DeviceType;
use linear_attention::{Config, Plan, Shape};
use serde::{Deserialize, Serialize};

/// The sizes of a problem, which say whether two rows measured the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[expect(clippy::exhaustive_structs, reason = "a problem has these sizes and no other")]
pub struct Sizes {
    /// B, sequences.
    pub b: u32,
    /// T, tokens of each.
    pub t: u32,
    /// H, query heads.
    pub h: u32,
    /// G, key/value heads.
    pub g: u32,
    /// K, the width of q and k.
    pub k: u32,
    /// V, the width of v and o.
    pub v: u32,
}

impl Sizes {
    /// With G = H.
    #[must_use]
    pub fn new([b, t, h, k, v]: [u32; 5]) -> Self {
        Self { b, t, h, g: h, k, v }
    }

    /// The library's shape.
    #[must_use]
    pub fn shape(&self) -> Shape {
        Shape::new(self.b, self.t, self.h).with_kv_heads(self.g)
    }

    /// elu + 1, normalised, f32, of these widths.
    #[must_use]
    pub fn config(&self) -> Config {
        Config::new(self.k, self.v)
    }

    /// True for a decode step: one token for each sequence.
    #[must_use]
    pub fn is_step(&self) -> bool {
        self.t == 1
    }

    /// The same but for T.
    #[must_use]
    pub fn with_t(self, t: u32) -> Self {
        Self { t, ..self }
    }

    /// Refuses sizes that no device can compute.
    fn check(self) -> Result<Self, String> {
        let config = self.config();
        config.validate().map_err(|error| error.to_string())?;
        self.shape().lens(&config).map_err(|error| error.to_string())?;
        if self.t == 0 {
            return Err("T must be at least 1 where a time is measured, found 0".to_owned());
        }
        Ok(self)
    }
}

impl From<&Plan> for Sizes {
    fn from(plan: &Plan) -> Self {
        Self::of(plan.shape(), plan.config())
    }
}

impl Sizes {
    /// Those of a shape and a config.
    #[must_use]
    pub fn of(shape: &Shape, config: &Config) -> Self {
        Self {
            b: shape.batch,
            t: shape.seq_len,
            h: shape.heads,
            g: shape.key_heads,
            k: config.key_dim,
            v: config.value_dim,
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { b, t, h, k, v, .. } = self;
        f.pad(&format!("{b},{t},{h},{k},{v}"))
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sizes: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
        match sizes.as_deref() {
            Ok([b, t, h, k]) => Self::new([*b, *t, *h, *k, *k]).check(),
            Ok([b, t, h, k, v]) => Self::new([*b, *t, *h, *k, *v]).check(),
            _ => Err(format!("expected B,T,H,K or B,T,H,K,V, found {text}")),
        }
    }
}

/// The sizes of a step of decoding, one token for each of N sequences: `N,H,K[,V]`.
///
/// # Errors
///
/// A message that says what is wrong with the text.
pub fn parse_step(text: &str) -> Result<Sizes, String> {
    let sizes: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
    match sizes.as_deref() {
        Ok([n, h, k]) => Sizes::new([*n, 1, *h, *k, *k]).check(),
        Ok([n, h, k, v]) => Sizes::new([*n, 1, *h, *k, *v]).check(),
        _ => Err(format!("expected N,H,K or N,H,K,V, found {text}")),
    }
}

/// Shapes that differ in T alone, which doubles: `B,FIRST..LAST,H,K[,V]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    first: Sizes,
    last: u32,
}

impl Sweep {
    /// Time per token over T: one head of a small width, up to a million tokens.
    pub const GROWTH: &'static str = "1,4096..1048576,1,32";
    /// The crossover with softmax attention, whose time grows with the square of T.
    pub const SOFTMAX: &'static str = "1,512..16384,8,64";

    /// The shapes, T rising.
    pub fn sizes(self) -> impl Iterator<Item = Sizes> {
        let lengths = std::iter::successors(Some(self.first.t), |t| t.checked_mul(2));
        lengths.take_while(move |t| *t <= self.last).map(move |t| self.first.with_t(t))
    }
}

impl FromStr for Sweep {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wanted = || format!("expected B,FIRST..LAST,H,K or B,FIRST..LAST,H,K,V, found {text}");
        let (before, rest) = text.split_once("..").ok_or_else(wanted)?;
        let (last, after) = rest.split_once(',').ok_or_else(wanted)?;
        let first: Sizes = format!("{before},{after}").parse().map_err(|error: String| {
            // A message about the whole text is clearer.
            if error.starts_with("expected B,T") { wanted() } else { error }
        })?;
        let last: u32 = last.parse().map_err(|_| wanted())?;
        if last < first.t {
            return Err(format!("LAST must be at least FIRST = {}, found {last}", first.t));
        }
        first.with_t(last).check()?;
        Ok(Self { first, last })
    }
}

/// The shapes of `docs/performance.md`: three that a CPU computes too, four that only a GPU
/// computes while one waits, and decoding, one token a sequence.
#[must_use]
pub fn standard_sizes(device_type: DeviceType) -> Vec<Sizes> {
    let mut sizes = vec![[1, 4096, 8, 64], [1, 16384, 8, 64], [1, 8192, 4, 128]];
    if device_type != DeviceType::Cpu {
        sizes.extend([[1, 65536, 16, 128], [8, 4096, 16, 64], [8, 4096, 16, 128]]);
        sizes.push([32, 1024, 16, 128]);
    }
    sizes.extend([[1, 1, 32, 128], [32, 1, 32, 128], [256, 1, 32, 128]]);
    sizes.into_iter().map(|[b, t, h, k]| Sizes::new([b, t, h, k, k])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sweeps_double() {
        let lengths = |text: &str| {
            text.parse::<Sweep>().map(|sweep| sweep.sizes().map(|s| s.t).collect::<Vec<_>>())
        };
        assert_eq!(lengths("1,3..13,2,4"), Ok(vec![3, 6, 12]));
        assert_eq!(lengths("1,7..7,2,4,8"), Ok(vec![7]));
        assert_eq!(lengths(Sweep::GROWTH).map(|l| l.len()), Ok(9));
        assert_eq!(lengths(Sweep::SOFTMAX).map(|l| l.len()), Ok(6));
    }

    #[test]
    fn steps() {
        assert_eq!(parse_step("32,8,64"), Ok(Sizes::new([32, 1, 8, 64, 64])));
        assert_eq!(parse_step("32,8,64,16"), Ok(Sizes::new([32, 1, 8, 64, 16])));
        for (text, part) in [("32,8", "found 32,8"), ("0,8,64", "batch"), ("1,1,9999", "9999")] {
            let error = parse_step(text).err().unwrap_or_default();
            assert!(error.contains(part), "{part} in {error}");
        }
    }

    #[test]
    fn sweeps_refused() {
        for (text, part) in [
            ("1,4,2,4", "found 1,4,2,4"),
            ("1,4..2,2,4", "at least FIRST = 4, found 2"),
            ("1,x..4,2,4", "found 1,x..4,2,4"),
            ("1,0..4,2,4", "T must be at least 1"),
            ("1,1..4,2,9999", "9999"),
            ("65536,1..65536,1,64", "2^32"),
        ] {
            let error = text.parse::<Sweep>().err().unwrap_or_default();
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

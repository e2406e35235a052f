//! A state as bytes that outlive the process.

use bytemuck::{Pod, Zeroable};
use wgpu::BufferAddress;

use crate::device::readback::Readback;
use crate::error::PoolError;
use crate::problem::config::Config;
use crate::problem::feature_map::FeatureMap;
use crate::problem::update_rule::DecayDims;

/// A copy of a state on its way to the host, recorded by
/// [`StatePool::snapshot`](crate::serve::StatePool::snapshot). Dropping it abandons the copy.
///
/// The bytes that it becomes are little-endian: 48 bytes of header, then mu `[E,F,V]` and, where o
/// is normalised, nu `[E,F]`, in f32.
///
/// | bytes | contents |
/// | --- | --- |
/// | 0 .. 8 | `linattn` and a zero |
/// | 8 .. 12 | the version of this format, 3 |
/// | 12 .. 16 | CRC-32 of all the other bytes |
/// | 16 .. 28 | E, F, V |
/// | 28 .. 32 | the feature map, as a number: a state of one map is nonsense to another |
/// | 32 .. 36 | 1 where there is a nu, otherwise 0 |
/// | 36 .. 40 | the update rule: 0 linear, 1 gated, 2 delta, 3 gated-delta |
/// | 40 .. 48 | bytes after the header |
///
/// Version 1 had a nu in any case, version 2 knew no rule but linear; both are refused.
#[derive(Debug)]
pub struct Snapshot {
    header: Header,
    readback: Readback,
}

/// The header before the state.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
pub(crate) struct Header {
    magic: [u8; 8],
    version: u32,
    checksum: u32,
    value_heads: u32,
    features: u32,
    value_dim: u32,
    feature_map: u32,
    has_nu: u32,
    update_rule: u32,
    /// Two words, so that the struct has no padding anywhere.
    len: [u32; 2],
}

const MAGIC: [u8; 8] = *b"linattn\0";
const VERSION: u32 = 3;
/// Those of a [`Summary`](crate::summary::Summary).
const SUMMARY_MAGIC: [u8; 8] = *b"linasum\0";
const SUMMARY_VERSION: u32 = 1;
const HEADER_LEN: usize = size_of::<Header>();

impl Snapshot {
    pub(crate) fn record(
        device: &wgpu::Device,
        encoder: &mut wgpu::CommandEncoder,
        header: Header,
        source: (&wgpu::Buffer, BufferAddress, BufferAddress),
    ) -> Result<Self, PoolError> {
        Ok(Self { header, readback: Readback::record_ranges(device, encoder, &[source])? })
    }

    /// The bytes, once the submission that holds the copy has run. It waits as
    /// [`Readback::read`](crate::Readback::read) does.
    ///
    /// # Errors
    ///
    /// [`PoolError::Device`] where the device was lost or the copy could not be read.
    pub async fn read(self) -> Result<Vec<u8>, PoolError> {
        Ok(self.header.seal(&self.readback.read().await?.concat()))
    }

    /// The same for a program that polls the device: see
    /// [`Readback::read_polled`](crate::Readback::read_polled).
    ///
    /// # Errors
    ///
    /// As [`Snapshot::read`].
    pub async fn read_polled(self) -> Result<Vec<u8>, PoolError> {
        Ok(self.header.seal(&self.readback.read_polled().await?.concat()))
    }

    /// The same, blocking this thread until the device is done.
    ///
    /// # Errors
    ///
    /// As [`Snapshot::read`].
    #[cfg(not(target_arch = "wasm32"))]
    pub fn wait(self) -> Result<Vec<u8>, PoolError> {
        Ok(self.header.seal(&self.readback.wait()?.concat()))
    }
}

/// The map of keys as a number: its code where F and the code determine it, otherwise a checksum of
/// the map, its text, K, and whether rows are divided by their L2 norms. Weights are not part of
/// it.
fn map_number(config: &Config) -> u32 {
    let map = config.key_map();
    if map.is_element_wise() && !config.l2_norm {
        return map.code();
    }
    let text = match map {
        FeatureMap::Custom(map) => map.wgsl(),
        _ => "",
    };
    let all = format!("{map} {} {} {text}", config.key_dim, config.l2_norm);
    crc32fast::hash(all.as_bytes()) | 1 << 31
}

/// Refuses a pool of other states, value heads or slots than a call needs. Of the config only what
/// a snapshot names is compared: sizes, the feature map and the update rule.
pub(crate) fn check_states(
    (config, value_heads, slots): (&Config, u32, u32),
    pool: (&Config, u32, u32),
) -> Result<(), PoolError> {
    let refuse =
        |what, required: String, actual: String| Err(PoolError::Pool { what, required, actual });
    for (what, required, actual) in [("value_heads", value_heads, pool.1), ("slots", slots, pool.2)]
    {
        if required != actual {
            return refuse(what, required.to_string(), actual.to_string());
        }
    }
    // Most are equal altogether.
    if config != pool.0 && Header::new(config, value_heads) != Header::new(pool.0, value_heads) {
        let [required, actual] = [config, pool.0].map(|config| {
            let (k, v) = (config.key_dim, config.value_dim);
            let rule = config.update_rule.name();
            format!("K = {k}, V = {v}, {}, {rule}", config.feature_map.name())
        });
        return refuse("config", required, actual);
    }
    Ok(())
}

impl Header {
    pub(crate) fn new(config: &Config, value_heads: u32) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION.to_le(),
            checksum: 0,
            value_heads: value_heads.to_le(),
            features: config.features().to_le(),
            value_dim: config.value_dim.to_le(),
            feature_map: map_number(config).to_le(),
            has_nu: u32::from(config.is_normalized()).to_le(),
            update_rule: config.update_rule.number().to_le(),
            len: [0; 2],
        }
    }

    /// The same before a summary, whose decays have forms that states do not show: none, one for
    /// each value head, or one for each row are 0, 1 and 2 in the second byte of the rule.
    pub(crate) fn of_summary(config: &Config, value_heads: u32) -> Self {
        let decays: u32 = match config.update_rule.decay().map(|decay| decay.dims) {
            None => 0,
            Some(DecayDims::Constant | DecayDims::PerHead) => 1,
            Some(DecayDims::PerRow) => 2,
        };
        Self {
            magic: SUMMARY_MAGIC,
            version: SUMMARY_VERSION.to_le(),
            update_rule: (config.update_rule.number() | decays << 8).to_le(),
            ..Self::new(config, value_heads)
        }
    }

    /// E.
    pub(crate) fn value_heads(&self) -> u32 {
        u32::from_le(self.value_heads)
    }

    /// The first size, map or rule in which another header differs, with both.
    pub(crate) fn difference(&self, other: &Self) -> Option<(&'static str, [u32; 2])> {
        let fields = [
            ("value_heads", self.value_heads, other.value_heads),
            ("features", self.features, other.features),
            ("value_dim", self.value_dim, other.value_dim),
            ("feature map", self.feature_map, other.feature_map),
            ("has_nu", self.has_nu, other.has_nu),
            ("update rule", self.update_rule, other.update_rule),
        ];
        let different = fields.into_iter().find(|(_, ours, theirs)| ours != theirs);
        different.map(|(what, ours, theirs)| (what, [ours, theirs].map(u32::from_le)))
    }

    fn with_len(mut self, len: u64) -> Self {
        self.len = [(len as u32).to_le(), ((len >> 32) as u32).to_le()];
        self
    }

    /// A header like this one, and after it a state, little-endian as buffers are on any host.
    pub(crate) fn seal(self, state: &[u8]) -> Vec<u8> {
        let mut header = self.with_len(state.len() as u64);
        let mut bytes = bytemuck::bytes_of(&header).to_vec();
        bytes.extend_from_slice(state);
        header.checksum = checksum(&bytes).to_le();
        bytes[..HEADER_LEN].copy_from_slice(bytemuck::bytes_of(&header));
        bytes
    }

    /// The state after a header like this one, if nothing has changed since `seal`.
    pub(crate) fn open(self, bytes: &[u8], state_size: u64) -> Result<&[u8], PoolError> {
        let refuse = |what, required: String, actual: String| {
            Err(PoolError::Snapshot { what, required, actual })
        };
        let Some((head, state)) = bytes.split_at_checked(HEADER_LEN) else {
            let required = format!("at least {HEADER_LEN} bytes");
            return refuse("length", required, format!("{} bytes", bytes.len()));
        };
        let found: Self = bytemuck::pod_read_unaligned(head);
        if found.magic != self.magic {
            return refuse("beginning", format!("{:?}", self.magic), format!("{:?}", found.magic));
        }
        if found.version != self.version {
            let [required, actual] =
                [self.version, found.version].map(|x| u32::from_le(x).to_string());
            return refuse("version", required, actual);
        }
        let expected = self.with_len(state_size);
        if let Some((what, [required, actual])) = expected.difference(&found) {
            return refuse(what, required.to_string(), actual.to_string());
        }
        if found.len != expected.len || state.len() as u64 != state_size {
            let actual = format!("{} bytes", state.len());
            return refuse("length after the header", format!("{state_size} bytes"), actual);
        }
        let [required, actual] = [checksum(bytes), u32::from_le(found.checksum)];
        if required != actual {
            return refuse("checksum", format!("{required:#010x}"), format!("{actual:#010x}"));
        }
        Ok(state)
    }
}

/// Of all bytes but its own four.
fn checksum(bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(bytes.get(..12).unwrap_or_default());
    hasher.update(bytes.get(16..).unwrap_or_default());
    hasher.finalize()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::problem::config::Normalization;
    use crate::problem::update_rule::{Decay, UpdateRule};

    fn header() -> Header {
        Header::new(&Config::new(3, 5), 2)
    }

    fn sealed() -> Vec<u8> {
        let state: Vec<f32> = (0..36).map(|i| i as f32 - 7.5).collect();
        header().seal(bytemuck::cast_slice(&state))
    }

    #[test]
    fn opens_what_it_sealed() {
        let bytes = sealed();
        assert_eq!(bytes.len(), 48 + 4 * 36);
        assert_eq!(header().open(&bytes, 144).unwrap(), &bytes[48..]);
    }

    #[test]
    fn other_states_are_refused_by_name() {
        let bytes = sealed();
        let map = Config::new(3, 5).with_feature_map(FeatureMap::Relu);
        for (header, size, what) in [
            (Header::new(&Config::new(3, 5), 3), 216, "value_heads must be 3, found 2"),
            (Header::new(&Config::new(4, 5), 2), 192, "features must be 4, found 3"),
            (Header::new(&Config::new(3, 6), 2), 168, "value_dim must be 6, found 5"),
            (Header::new(&map, 2), 144, "feature map must be 1, found 2"),
        ] {
            let error = header.open(&bytes, size).unwrap_err().to_string();
            assert!(error.contains(what), "{error}");
        }
        for version in [1, 2, 4] {
            let mut other = bytes.clone();
            other[8] = version;
            let error = header().open(&other, 144).unwrap_err().to_string();
            assert!(error.contains(&format!("version must be 3, found {version}")), "{error}");
        }
    }

    #[test]
    fn a_state_of_another_rule_is_refused() {
        let config = Config::new(3, 5).with_update_rule(UpdateRule::Gated(Decay::per_head()));
        let error = Header::new(&config, 2).open(&sealed(), 144).unwrap_err().to_string();
        assert!(error.contains("update rule must be 1, found 0"), "{error}");
    }

    #[test]
    fn a_state_without_nu_says_so() {
        let mut config = Config::new(3, 5);
        config.normalization = Normalization::None;
        let without = Header::new(&config, 2);
        let bytes = without.seal(bytemuck::cast_slice(&[1.0f32; 30]));
        assert_eq!(without.open(&bytes, 120).unwrap(), &bytes[48..]);
        let error = header().open(&bytes, 144).unwrap_err().to_string();
        assert!(error.contains("has_nu must be 1, found 0"), "{error}");
        let error = without.open(&sealed(), 120).unwrap_err().to_string();
        assert!(error.contains("has_nu must be 0, found 1"), "{error}");
    }

    proptest! {
        /// Whatever happens to the bytes is noticed, and nothing panics.
        #[test]
        fn damage_is_refused(at in 0usize..192, flip in 1u8..=255, cut in 0usize..192) {
            let bytes = sealed();
            let mut damaged = bytes.clone();
            damaged[at] ^= flip;
            prop_assert!(header().open(&damaged, 144).is_err());
            prop_assert!(header().open(&bytes[..cut], 144).is_err());
            let mut longer = bytes;
            longer.push(flip);
            prop_assert!(header().open(&longer, 144).is_err());
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), size in any::<u64>()) {
            prop_assert!(header().open(&bytes, size).is_err());
        }
    }
}

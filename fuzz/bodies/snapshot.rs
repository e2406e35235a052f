//! Any bytes as a snapshot: a state, which then makes the same bytes, or an error. Most are made
//! from a snapshot of the very pool, and may have the checksum that belongs to them, so that they
//! come further than the checksum.

use arbitrary::{Arbitrary, Unstructured};
use linear_attention::cpu::StatePool;
use linear_attention::update_rule::{Beta, Decay, UpdateRule};
use linear_attention::{Config, FeatureMap, Normalization};

#[derive(Arbitrary, Debug)]
struct Bytes {
    config: u8,
    heads: u8,
    has_checksum: bool,
    is_changed: bool,
    changes: Vec<(u8, u8)>,
    cut: Option<u8>,
    rest: Vec<u8>,
}

fn config(kind: u8) -> Config {
    match kind % 5 {
        0 => Config::new(2, 3),
        1 => Config::new(2, 3).with_normalization(Normalization::None),
        2 => Config::new(2, 2).with_feature_map(FeatureMap::Softmax),
        3 => Config::of_rule(1, 4, UpdateRule::Gated(Decay::per_row())),
        _ => Config::of_rule(3, 1, UpdateRule::Delta(Beta::per_head())),
    }
}

/// Restores what the bytes say.
pub fn run(bytes: &[u8]) {
    let Ok(parts) = Bytes::arbitrary(&mut Unstructured::new(bytes)) else { return };
    let (config, heads) = (config(parts.config), u32::from(parts.heads % 3) + 1);
    let pool = StatePool::new(&config, heads, 2).expect("a small pool");
    let mut snapshot = parts.rest;
    if parts.is_changed {
        let slot = pool.allocate().expect("a slot");
        snapshot = pool.snapshot(slot).expect("a slot's state");
        pool.free(slot).expect("a slot");
        for (at, byte) in &parts.changes {
            let at = usize::from(*at) % snapshot.len();
            snapshot[at] = *byte;
        }
        if let Some(cut) = parts.cut {
            snapshot.truncate(usize::from(cut));
        }
    }
    if parts.has_checksum && snapshot.len() >= 16 {
        let mut hasher = crc32fast::Hasher::new();
        hasher.update(&snapshot[..12]);
        hasher.update(&snapshot[16..]);
        let checksum = hasher.finalize().to_le_bytes();
        snapshot[12..16].copy_from_slice(&checksum);
    }
    match pool.restore(&snapshot) {
        Ok(slot) => {
            assert_eq!(pool.snapshot(slot).expect("a slot's state"), snapshot);
            assert_eq!(pool.available(), 1);
        }
        Err(error) => {
            assert!(!error.to_string().contains('\n'));
            assert_eq!(pool.available(), 2);
        }
    }
}

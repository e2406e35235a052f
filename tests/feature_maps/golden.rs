//! Features against those that PyTorch computed, and the maps' names and widths.

use approx::assert_relative_eq;
use linear_attention::FeatureMap;
use linear_attention::error::ConfigError;
use linear_attention::feature_map::{Projection, Weights};
use linear_attention::reference::key_features;
use safetensors::SafeTensors;

use crate::{ALL, config_of, named};

/// x and what `tests/data/feature_maps.py` found for it.
const GOLDEN: &[u8] = include_bytes!("../data/feature_maps.safetensors");

fn numbers<T>(file: &SafeTensors<'_>, name: &str, size: usize, of: fn(&[u8]) -> T) -> Vec<T> {
    let tensor = file.tensor(name).unwrap_or_else(|_| panic!("no tensor {name}"));
    tensor.data().chunks_exact(size).map(of).collect()
}

fn f32s(file: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    numbers(file, name, 4, |x| f32::from_le_bytes(x.try_into().unwrap()))
}

fn f64s(file: &SafeTensors<'_>, name: &str) -> Vec<f64> {
    numbers(file, name, 8, |x| f64::from_le_bytes(x.try_into().unwrap()))
}

#[test]
fn features_are_those_of_pytorch() {
    let file = SafeTensors::deserialize(GOLDEN).unwrap();
    let x = f32s(&file, "x");
    for name in ALL {
        for l2_norm in [false, true] {
            let mut config = config_of(named(name), 6, 1);
            config.l2_norm = l2_norm;
            let weights = config.needs_weights().then(|| {
                let [w, b] = ["weight", "bias"].map(|part| f32s(&file, &format!("{name} {part}")));
                let rows = config.feature_map.projections(6);
                Weights::new(Projection::new(1, rows, 6, &w, Some(&b)).unwrap())
            });
            let found = key_features(&config, 1, &x, weights.as_ref()).unwrap();
            let golden = f64s(&file, &if l2_norm { format!("l2 {name}") } else { name.to_owned() });
            assert_eq!(found.len(), golden.len(), "{name}");
            for (found, golden) in found.iter().zip(&golden) {
                // The L2 norm's eps is 1e-6 as f32 has it, PyTorch's as f64 has it; the roots of
                // widths were rounded once.
                assert_relative_eq!(found, golden, max_relative = 1e-7, epsilon = 1e-300);
                if !l2_norm {
                    assert_relative_eq!(found, golden, max_relative = 1e-12, epsilon = 1e-300);
                }
            }
        }
    }
}

#[test]
fn names_are_read_as_they_are_written() {
    for name in ALL {
        assert_eq!(named(name).to_string(), name);
    }
    for wrong in ["", "softplus", "favor", "favor:", "favor:0", "favor:x", "elu:3", "dpfp"] {
        let refused = wrong.parse::<FeatureMap>().unwrap_err();
        assert_eq!(refused, ConfigError::UnknownFeatureMap { actual: wrong.to_owned() });
    }
}

#[test]
fn widths_are_those_of_the_formulas() {
    for (name, key_dim, features) in [
        ("elu", 64, 64),
        ("softmax", 64, 64),
        ("hedgehog", 64, 128),
        ("hedgehog-joint", 64, 128),
        ("taylor", 64, 2145),
        ("taylor", 16, 153),
        ("dpfp:3", 64, 384),
        ("favor:4096", 64, 4096),
    ] {
        assert_eq!(named(name).features(key_dim), features, "{name}");
    }
}

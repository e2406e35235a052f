//! The distance of random features from softmax.

use linear_attention::feature_map::Weights;
use linear_attention::reference::{recurrent, softmax};
use linear_attention::{Config, FeatureMap, Inputs, Normalization, Shape};

use crate::config_of;

/// Relative error of o, in the root of the mean square.
fn relative_error(found: &[f64], expected: &[f64]) -> f64 {
    let square = |x: f64| x * x;
    let error: f64 = found.iter().zip(expected).map(|(a, b)| square(a - b)).sum();
    (error / expected.iter().map(|x| square(*x)).sum::<f64>()).sqrt()
}

/// Rows of `len`, in directions that no two share.
fn rows_of_length(rows: usize, width: u32, len: f32, seed: u64) -> Vec<f32> {
    let map = FeatureMap::T2r { features: rows as u32 };
    // Normal numbers are what training would begin with.
    let config = config_of(map, width, 1);
    let drawn = Weights::sample(&config, seed).unwrap().unwrap().encode(&config).unwrap();
    let transposed = |row: usize, i: usize| drawn[i * rows.next_multiple_of(4) + row];
    (0..rows)
        .flat_map(|row| {
            let x: Vec<f32> = (0..width as usize).map(|i| transposed(row, i)).collect();
            let norm = x.iter().map(|x| x * x).sum::<f32>().sqrt();
            x.into_iter().map(move |x| x * len / norm)
        })
        .collect()
}

fn distance_from_softmax(map: FeatureMap, seed: u64) -> f64 {
    let (tokens, width) = (200u32, 32u32);
    // |q| |k| / K^(1/2) = 1 for all pairs.
    let length = (width as f32).powf(0.25);
    let rows = |salt| rows_of_length(tokens as usize, width, length, salt);
    let (q, k, v) = (rows(1), rows(2), rows(3));
    let shape = Shape::new(1, tokens, 1);
    let exact = softmax(&Config::new(width, width), &shape, Inputs::new(&q, &k, &v)).unwrap();
    let mut config = config_of(map, width, width);
    if config.normalization == Normalization::None {
        config.normalization = Normalization::SignedSum { eps: 1e-6 };
    }
    let weights = Weights::sample(&config, seed).unwrap();
    let inputs = Inputs::new(&q, &k, &v).with_weights(weights.as_ref());
    relative_error(&recurrent(&config, &shape, inputs).unwrap().o, &exact)
}

#[test]
fn favor_comes_within_5_percent_of_softmax() {
    for map in [
        FeatureMap::Favor { features: 4096 },
        FeatureMap::FavorHyperbolic { features: 4096 },
        // The rows are of one length, for which its kernel is softmax's.
        FeatureMap::Fourier { features: 4096 },
    ] {
        let error = distance_from_softmax(map.clone(), 5);
        assert!(error < 0.05, "{map}: {error}");
    }
}

/// Four times the features, half the error: of eight draws each, the root of the mean square.
#[test]
fn favor_converges_as_one_over_the_root_of_f() {
    let error = |features| {
        let squares =
            (0..8).map(|seed| distance_from_softmax(FeatureMap::Favor { features }, seed).powi(2));
        (squares.sum::<f64>() / 8.0).sqrt()
    };
    let errors = [64, 256, 1024].map(error);
    for pair in errors.windows(2) {
        let ratio = pair[0] / pair[1];
        assert!((1.6..2.5).contains(&ratio), "{errors:?}");
    }
}

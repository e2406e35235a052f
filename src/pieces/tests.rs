//! Joins of any records, and their bytes.
#![allow(clippy::unwrap_used, reason = "tests may panic")]

use proptest::prelude::*;

use super::*;
use crate::problem::config::Normalization;
use crate::problem::feature_map::FeatureMap;
use crate::problem::feature_map::random::Random;
use crate::problem::update_rule::{Beta, Decay, UpdateRule};

/// Every rule, normalised or not.
fn configs(features: u32, value_dim: u32) -> Vec<Config> {
    let (head, row, beta) = (Decay::per_head(), Decay::per_row(), Beta::per_head());
    let of = |rule| Config::of_rule(features, value_dim, rule);
    let linear = Config::new(features, value_dim);
    let mut unnormalized = linear.clone();
    unnormalized.normalization = Normalization::None;
    vec![
        linear.clone(),
        unnormalized,
        linear.clone().with_update_rule(UpdateRule::Gated(row)),
        of(UpdateRule::Gated(Decay::constant())),
        of(UpdateRule::Gated(head)),
        of(UpdateRule::Delta(beta)),
        of(UpdateRule::GatedDelta(head, beta)),
        of(UpdateRule::GatedDelta(row, beta)),
    ]
}

/// States around 1, decays at most 0, matrices of a norm of at most 1, as normalised keys make
/// them.
fn sample(config: &Config, random: &mut Random) -> Summary {
    let mut summary = Summary::empty(config, 2, 3).unwrap();
    let (form, features) = (summary.form(), config.features() as usize);
    for record in summary.records_mut().chunks_mut(form.record_len()) {
        let [mu, nu, carried] = form.parts_mut(record);
        mu.iter_mut().chain(nu).for_each(|x| *x = 2.0 * random.uniform() - 1.0);
        let bound = if form.has_matrix() { 1.0 / features as f32 } else { 2.0 };
        for x in carried.iter_mut() {
            *x = bound * (2.0 * random.uniform() - 1.0);
            if !form.has_matrix() {
                *x = if random.uniform() < 0.1 { f32::NEG_INFINITY } else { -x.abs() };
            }
        }
    }
    summary
}

fn assert_near(found: &Summary, expected: &Summary) {
    for (found, expected) in found.records.iter().zip(&expected.records) {
        let is_same = found == expected;
        assert!(is_same || (found - expected).abs() <= 1e-6, "{found} and {expected}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// In any order, with nothing at either end, behind a known state; and gradients go back as
    /// states went.
    #[test]
    fn joins_are_associative(seed: u64, features in 1u32..7, value_dim in 1u32..7) {
        let mut random = Random::new(seed);
        for config in configs(features, value_dim) {
            let [a, b, c] = std::array::from_fn(|_| sample(&config, &mut random));
            let left = a.then(&b).unwrap().then(&c).unwrap();
            assert_near(&left, &a.then(&b.then(&c).unwrap()).unwrap());

            let empty = Summary::empty(&config, 2, 3).unwrap();
            prop_assert_eq!(&empty.then(&a).unwrap(), &a);
            prop_assert_eq!(&a.then(&empty).unwrap(), &a);

            let (mu, nu) = sample(&config, &mut random).state();
            let state = StateSlices { mu: &mu, nu: &nu };
            let known = a.after(state).unwrap();
            if config.update_rule != UpdateRule::Linear {
                prop_assert_eq!(&b.then(&known).unwrap(), &known);
            }
            assert_near(&known.then(&b).unwrap(), &a.then(&b).unwrap().after(state).unwrap());

            // <dy, a x> = <a^T dy, x>, without what is added.
            let zeros = (vec![0.0; mu.len()], vec![0.0; nu.len()]);
            let zeros = StateSlices { mu: &zeros.0, nu: &zeros.1 };
            let of_states = a.with_state(zeros, ["", ""]).unwrap();
            let (dmu, dnu) = c.state();
            let forth = of_states.after(state).unwrap().state();
            let back = a.adjoint(zeros).unwrap();
            let back = back.after(StateSlices { mu: &dmu, nu: &dnu }).unwrap().state();
            let dot = |x: [&[f32]; 2], y: [&[f32]; 2]| -> f64 {
                let pairs = x.concat().into_iter().zip(y.concat());
                pairs.map(|(x, y)| f64::from(x) * f64::from(y)).sum()
            };
            let forth = dot([&dmu, &dnu], [&forth.0, &forth.1]);
            prop_assert!((forth - dot([&back.0, &back.1], [&mu, &nu])).abs() < 1e-4);
        }
    }

    /// Whatever happens to the bytes is noticed, and nothing panics.
    #[test]
    fn damage_is_refused(seed: u64, at: prop::sample::Index, flip in 1u8..=255) {
        for config in configs(2, 3) {
            let summary = sample(&config, &mut Random::new(seed));
            let bytes = summary.to_bytes();
            let open = |bytes: &[u8]| Summary::from_bytes(&config, 2, 3, bytes);
            prop_assert_eq!(&open(&bytes).unwrap(), &summary);
            let mut damaged = bytes.clone();
            damaged[at.index(bytes.len())] ^= flip;
            prop_assert!(open(&damaged).is_err());
            prop_assert!(open(&bytes[..at.index(bytes.len())]).is_err());
        }
    }
}

#[test]
fn bytes_are_little_endian() {
    let config = &configs(2, 3)[0];
    let summary = sample(config, &mut Random::new(1));
    let bytes = summary.to_bytes();
    let words: Vec<_> = summary.records.iter().flat_map(|x| x.to_le_bytes()).collect();
    assert_eq!(bytes[48..], words);
    assert_eq!(&Summary::from_bytes(config, 2, 3, &bytes).unwrap(), &summary);
}

#[test]
fn sizes_are_the_documented_ones() {
    let sizes = configs(4, 6).into_iter().map(|config| Form::of(&config).unwrap().record_len());
    assert_eq!(sizes.collect::<Vec<_>>(), [28, 24, 32, 25, 25, 40, 40, 40]);
}

#[test]
fn other_summaries_are_refused_by_name() {
    let configs = configs(4, 6);
    let bytes = Summary::empty(&configs[4], 2, 3).unwrap().to_bytes();
    let refused = |config: &Config, heads: u32, sequences: u32, bytes: &[u8]| {
        Summary::from_bytes(config, heads, sequences, bytes).unwrap_err().to_string()
    };
    let found = refused(&configs[4], 2, 4, &bytes);
    assert_eq!(found, "summary: length after the header must be 800 bytes, found 600 bytes");
    let found = refused(&configs[4], 1, 6, &bytes);
    assert_eq!(found, "summary: value_heads must be 1, found 2");
    let per_row = Config::of_rule(4, 6, UpdateRule::Gated(Decay::per_row()));
    let found = refused(&per_row, 2, 3, &bytes);
    assert_eq!(found, "summary: update rule must be 513, found 257");
    let map = configs[4].clone().with_feature_map(FeatureMap::Relu);
    assert_eq!(refused(&map, 2, 3, &bytes), "summary: feature map must be 1, found 0");
    let snapshot = Header::new(&configs[4], 2).seal(&[0; 600]);
    assert!(refused(&configs[4], 2, 3, &snapshot).starts_with("summary: beginning must be"));

    let other = Summary::empty(&map, 2, 3).unwrap();
    let refused = Summary::empty(&configs[4], 2, 3).unwrap().then(&other).unwrap_err().to_string();
    assert_eq!(refused, "summary: feature map must be 0, found 1");
    let form = other.form();
    let short = form.join(&[0.0; 25], &mut [0.0; 24]).unwrap_err().to_string();
    assert_eq!(short, "summary: elements of records must be 25, found 24");
    let torn = form.join(&[0.0; 24], &mut [0.0; 24]).unwrap_err().to_string();
    assert_eq!(torn, "summary: elements of records must be 25, found 24");
}

//! Sequences in pieces: the harness's cases by way of summaries.

use linear_attention::cpu::CpuAttention;
use linear_attention::gradients::{Gradients, OutputGradients};
use linear_attention::state::StateSlices;
use linear_attention::summary::Summary;
use linear_attention::verify::{self, Options};
use linear_attention::{Config, Error, Inputs, Output, Shape, reference};

use crate::pieces::{Piece, zeros};
use crate::{Sample, configs};

const PIECES: usize = 3;

fn pieces(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Vec<Piece> {
    (0..PIECES).map(|i| Piece::new(config, shape, inputs, (i, PIECES))).collect()
}

/// The summary of what is before each piece and of all of them, each on its way through bytes.
fn prefixes(
    engine: &CpuAttention,
    (shape, inputs): (&Shape, Inputs<'_>),
    pieces: &[Piece],
) -> Result<Vec<Summary>, Error> {
    let (heads, sequences) = (shape.value_heads, shape.sequences());
    let empty = Summary::empty(engine.config(), heads, sequences)?;
    let mut before = match inputs.initial_state {
        Some(state) => empty.after(state)?,
        None => empty,
    };
    let mut prefixes = vec![before.clone()];
    for piece in pieces {
        let added = engine.summarize(&piece.shape, piece.inputs(inputs))?;
        let sent = added.to_bytes();
        let received = Summary::from_bytes(engine.config(), heads, sequences, &sent)?;
        assert_eq!(received, added);
        before = before.then(&received)?;
        prefixes.push(before.clone());
    }
    Ok(prefixes)
}

/// A call, piece by piece; its final state is that of the summaries.
fn in_pieces(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Output, Error> {
    let engine = CpuAttention::new(config.clone())?;
    let pieces = pieces(config, shape, inputs);
    let prefixes = prefixes(&engine, (shape, inputs), &pieces)?;
    let mut whole = zeros(config, shape);
    for (piece, before) in pieces.iter().zip(&prefixes) {
        let (mu, nu) = before.state();
        let found = engine.run(&piece.shape, piece.inputs(inputs).with_initial_state(&mu, &nu))?;
        piece.put_o(config, shape, &found.o, &mut whole.o);
    }
    (whole.mu, whole.nu) = prefixes[PIECES].state();
    Ok(whole)
}

/// Gradients, from the last piece to the first.
fn backward_in_pieces(
    config: &Config,
    shape: &Shape,
    inputs: Inputs<'_>,
    gradients: OutputGradients<'_>,
) -> Result<Gradients<f32>, Error> {
    let engine = CpuAttention::new(config.clone())?;
    let pieces = pieces(config, shape, inputs);
    let prefixes = prefixes(&engine, (shape, inputs), &pieces)?;
    let empty = Summary::empty(config, shape.value_heads, shape.sequences())?;
    let (mu, nu) = (gradients.mu.unwrap_or_default(), gradients.nu.unwrap_or_default());
    let mut after = empty.after(StateSlices { mu, nu })?;
    let mut whole = Gradients::default();
    for (piece, before) in pieces.iter().zip(&prefixes).rev() {
        let (mu, nu) = before.state();
        let inputs = piece.inputs(inputs);
        let added = engine.summarize(&piece.shape, inputs)?;
        let inputs = inputs.with_initial_state(&mu, &nu);
        let o = piece.of_o(config, shape, gradients.o);
        let alone = engine.backward(&piece.shape, inputs, OutputGradients::new(&o))?;
        let added = added.adjoint(StateSlices { mu: &alone.mu, nu: &alone.nu })?;
        let (mu, nu) = after.state();
        let by_state = OutputGradients::new(&o).with_final_state(&mu, &nu);
        let found = engine.backward(&piece.shape, inputs, by_state)?;
        piece.put_gradients(config, shape, &found, (&mut whole, false));
        after = after.then(&added)?;
    }
    (whole.mu, whole.nu) = after.state();
    Ok(whole)
}

#[test]
fn pieces_compute_every_case() {
    let report = verify::run_host(&Options::default(), &mut in_pieces, &mut |row| {
        assert!(row.passed, "{row:?}");
    });
    assert!(report.rows.len() > 300);
}

#[test]
fn pieces_compute_every_gradient() {
    let options = Options::default();
    let report = verify::run_host_backward(&options, &mut backward_in_pieces, &mut |row| {
        assert!(row.passed, "{row:?}");
    });
    assert!(report.rows.len() > 50);
}

/// A summary is that of f64.
#[test]
fn summaries_are_those_of_the_reference() {
    for config in configs(12, 20) {
        for shape in [Shape::packed(&[70, 0, 1, 9], 2), Shape::new(2, 5000, 1)] {
            let sample = Sample::new(&config, &shape, 0.7);
            let truth = reference::summary(&config, &shape, sample.inputs()).unwrap();
            let engine = CpuAttention::new(config.clone()).unwrap();
            let found = engine.summarize(&shape, sample.inputs()).unwrap();
            let (mu, nu) = found.state();
            // The last part of a record is a matrix, the decays of all rows, or that of the head.
            let features = config.features() as usize;
            for (name, found, truth) in [("mu", &mu, &truth.mu), ("nu", &nu, &truth.nu)] {
                assert_near(name, found, truth);
            }
            let len = found.form().record_len();
            let of_state = (mu.len() + nu.len()) * len / found.records().len();
            let carried = found.records().chunks(len).map(|record| &record[of_state..]);
            let carried: Vec<Vec<f32>> = carried.map(<[f32]>::to_vec).collect();
            if config.update_rule.beta().is_some() {
                assert_near("matrix", &carried.concat(), &truth.matrices);
            } else if config.update_rule.decay().is_some() {
                let of_rows = carried.iter().flat_map(|sums| {
                    (0..features).map(|f| *sums.get(f).unwrap_or(&sums[0])).collect::<Vec<f32>>()
                });
                assert_near("decays", &of_rows.collect::<Vec<f32>>(), &truth.decays);
            } else {
                assert_eq!(carried.concat(), []);
            }
        }
    }
}

fn assert_near(name: &str, found: &[f32], truth: &[f64]) {
    assert_eq!(found.len(), truth.len(), "{name}");
    let largest = truth.iter().fold(1e-3f64, |most, x| most.max(x.abs()));
    for (i, (found, truth)) in found.iter().zip(truth).enumerate() {
        assert!(
            (f64::from(*found) - truth).abs() <= 1e-5 * largest,
            "{name} {i}: {found}, {truth}"
        );
    }
}

/// Keys that vanish are refused where o is an average of nothing else, which a piece does not know.
#[test]
fn keys_may_vanish_behind_a_piece() {
    let (config, shape) = (Config::new(4, 4), Shape::new(1, 60, 1));
    let x = vec![0.5; 240];
    let mut k = vec![0.1; 240];
    k[40..].fill(-200.0);
    let inputs = Inputs::new(&x, &k, &x);
    let whole = CpuAttention::new(config.clone()).unwrap().run(&shape, inputs).unwrap();
    let found = in_pieces(&config, &shape, inputs).unwrap();
    assert_near("o", &found.o, &whole.o.into_iter().map(f64::from).collect::<Vec<f64>>());
    // From the first token on they are refused.
    k.fill(-200.0);
    let refused = in_pieces(&config, &shape, Inputs::new(&x, &k, &x)).unwrap_err();
    assert_eq!(refused, Error::KeyVanishes { token: 0, head: 0 });
}

#[test]
fn refusals() {
    let config = Config::new(4, 4);
    let shape = Shape::new(1, 3, 2);
    let engine = CpuAttention::new(config.clone()).unwrap();
    let sample = Sample::new(&config, &shape, 0.1);
    let found = engine.summarize(&shape, sample.inputs_with_state()).unwrap_err().to_string();
    assert_eq!(found, "update rule linear: initial_mu must be absent in a summary, found some");
    let found = engine.summarize(&shape.clone().with_slots(3), sample.inputs()).unwrap_err();
    assert_eq!(found, Error::HostShape { what: "slots" });
    let summary = engine.summarize(&shape, sample.inputs()).unwrap();
    let other = Summary::empty(&config, 2, 2).unwrap();
    let found = summary.then(&other).unwrap_err().to_string();
    assert_eq!(found, "summary: sequences must be 1, found 2");
    let state = StateSlices { mu: &sample.mu, nu: &[] };
    let found = summary.after(state).unwrap_err().to_string();
    assert_eq!(found, "initial_nu must have 8 elements, found 0");
}

//! The forward and the backward pass of a rank's piece.

use linear_attention::gradients::{Gradients, OutputGradients};
use linear_attention::state::StateSlices;
use linear_attention::summary::Summary;
use linear_attention::update_rule::DecayDims;
use linear_attention::{Config, Inputs, Output, Shape};
use mpi::collective::{CommunicatorCollectives, SystemOperation};

use crate::engine::Engine;
use crate::error::{Error, count};
use crate::ranks::{Exchange, Ranks};

/// The forward pass of a rank's piece.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Piece {
    /// o of the piece, and the state after it: on the last rank that after all tokens.
    pub output: Output,
    /// The state before the piece: mu `[N,E,F,V]`.
    pub initial_mu: Vec<f32>,
    /// nu `[N,E,F]`; empty where o is not normalised.
    pub initial_nu: Vec<f32>,
    /// The summary of the piece, on ranks between the first and the last.
    added: Summary,
}

impl Ranks {
    /// The outputs of this rank's piece, computed by its engine; collective. The shape has the same
    /// N sequences on all ranks, each with those of its tokens that this rank has, which may be
    /// none ([`Shape::packed`], see [`lengths_of_piece`](crate::lengths_of_piece)). Only rank 0 may
    /// have an initial state.
    ///
    /// A rank summarises its piece, the ranks scan, and each computes its outputs. The last rank
    /// needs no summary, and the first computes its outputs before the scan where a summary is not
    /// much cheaper ([`Engine::has_cheap_summaries`]).
    ///
    /// # Errors
    ///
    /// A refusal by the engine of any rank; an initial state on another rank than 0; ranks whose
    /// configs, value heads or numbers of sequences differ. It is an error on all ranks.
    pub fn forward(
        &self,
        engine: &impl Engine,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Piece, Error> {
        let initial = inputs.initial_state;
        let inputs = without_state(inputs);
        if self.rank() == 0 && self.size() > 1 && !engine.has_cheap_summaries() {
            return self.forward_first(engine, shape, (inputs, initial));
        }
        let added = if self.is_last() {
            empty(engine.config(), shape)
        } else {
            engine.summarize(shape, inputs).map_err(Error::from)
        };
        let kept = added.clone();
        let (initial_mu, initial_nu) = self.states_before(added, initial)?;
        let inputs = inputs.with_initial_state(&initial_mu, &initial_nu);
        let output = engine.run(shape, inputs).map_err(Error::from);
        let (output, added) = self.agree(output.and_then(|output| Ok((output, kept?))))?;
        Ok(Piece { output, initial_mu, initial_nu, added })
    }

    /// The same on rank 0, with the state after its outputs in place of a summary.
    fn forward_first(
        &self,
        engine: &impl Engine,
        shape: &Shape,
        (inputs, initial): (Inputs<'_>, Option<StateSlices<'_>>),
    ) -> Result<Piece, Error> {
        let computed = (|| {
            let empty = empty(engine.config(), shape)?;
            let (mut mu, mut nu) = empty.state();
            if let Some(initial) = initial {
                (mu, nu) = (initial.mu.to_vec(), initial.nu.to_vec());
            }
            let output = engine.run(shape, inputs.with_initial_state(&mu, &nu))?;
            let known = empty.after(StateSlices { mu: &output.mu, nu: &output.nu })?;
            let piece = Piece { output, initial_mu: mu, initial_nu: nu, added: empty };
            Ok((known, piece))
        })();
        let (_, piece) = self.scan(self.communicator(), computed, Exchange::Forward)?;
        self.agree(Ok(piece))
    }

    /// The gradients by the inputs of this rank's piece, from those by its o and, on the last rank
    /// alone, by the state after all tokens; collective. Shape and inputs are those of the forward
    /// pass, of which `piece` is the result.
    ///
    /// Gradients by what all ranks share, constant decays, `A_log`, `dt_bias` and the weights of
    /// feature maps, are those of all pieces, the same on all ranks. Those by the initial state are
    /// of the state before the piece: rank 0 has those of the whole.
    ///
    /// The gradient of a state goes from rank to rank in the opposite direction. Ranks between the
    /// first and the last compute two backward passes over their pieces: one for the gradient that
    /// they pass on, and one with the gradient that they receive.
    ///
    /// # Errors
    ///
    /// As [`Ranks::forward`]; a map without a derivative; a gradient by the final state on another
    /// rank than the last; more shared gradients than MPI can count.
    pub fn backward(
        &self,
        engine: &impl Engine,
        (shape, inputs): (&Shape, Inputs<'_>),
        piece: &Piece,
        gradients: OutputGradients<'_>,
    ) -> Result<Gradients<f32>, Error> {
        let inputs = inputs.with_initial_state(&piece.initial_mu, &piece.initial_nu);
        let added = self.added_gradients(engine, (shape, inputs), piece, gradients);
        let (alone, added) = match added {
            Ok((alone, added)) => (alone, Ok(added)),
            Err(error) => (None, Err(error)),
        };
        let (mu, nu) = self.gradients_after(added)?;
        let found = match alone {
            Some(found) => Ok(found),
            None => {
                let gradients = OutputGradients::new(gradients.o).with_final_state(&mu, &nu);
                engine.backward(shape, inputs, gradients).map_err(Error::from)
            }
        };
        self.sum_shared(engine.config(), found)
    }

    /// The gradient that this rank's piece adds to the one that goes to earlier ranks, and on the
    /// last rank all its gradients.
    fn added_gradients(
        &self,
        engine: &impl Engine,
        (shape, inputs): (&Shape, Inputs<'_>),
        piece: &Piece,
        gradients: OutputGradients<'_>,
    ) -> Result<(Option<Gradients<f32>>, Summary), Error> {
        if self.is_last() {
            let found = engine.backward(shape, inputs, gradients)?;
            let by_initial = StateSlices { mu: &found.mu, nu: &found.nu };
            let added = empty(engine.config(), shape)?.after(by_initial)?;
            return Ok((Some(found), added));
        }
        if gradients.mu.is_some() || gradients.nu.is_some() {
            let (required, actual) = (self.size() - 1, self.rank());
            let tensor = "gradient of the final state";
            return Err(Error::Elsewhere { tensor, required, actual });
        }
        if self.rank() == 0 {
            // No rank is before it.
            return Ok((None, empty(engine.config(), shape)?));
        }
        let found = engine.backward(shape, inputs, gradients)?;
        let by_initial = StateSlices { mu: &found.mu, nu: &found.nu };
        Ok((None, piece.added.adjoint(by_initial)?))
    }

    /// Adds up the gradients by what all ranks share.
    fn sum_shared(
        &self,
        config: &Config,
        found: Result<Gradients<f32>, Error>,
    ) -> Result<Gradients<f32>, Error> {
        let is_constant =
            config.update_rule.decay().is_some_and(|decay| decay.dims == DecayDims::Constant);
        let shared = |found: &mut Gradients<f32>| -> Vec<f32> {
            let mut all = Vec::new();
            for_each_shared(found, is_constant, |of| all.append(of));
            all
        };
        let of_rank = found.and_then(|mut found| {
            let mut lens = Vec::new();
            for_each_shared(&mut found, is_constant, |of| lens.push(of.len()));
            let own = shared(&mut found);
            count("elements of shared gradients", own.len())?;
            Ok((found, lens, own))
        });
        let mark = of_rank.as_ref().map_or(0, |(.., own)| own.len() as u64);
        let (mut found, lens, own) = self.agree_on(of_rank, (Exchange::Reduce, mark))?;
        if own.is_empty() {
            return Ok(found);
        }
        let mut sums = vec![0.0f32; own.len()];
        self.communicator().all_reduce_into(&own[..], &mut sums[..], SystemOperation::sum());
        self.count(|traffic| traffic.reduced_bytes += size_of_val(&own[..]) as u64);
        let (mut sums, mut lens) = (sums.into_iter(), lens.into_iter());
        for_each_shared(&mut found, is_constant, |of| {
            of.extend(sums.by_ref().take(lens.next().unwrap_or(0)));
        });
        Ok(found)
    }
}

/// Calls `with` with the gradients by each thing that all tokens share.
fn for_each_shared(
    found: &mut Gradients<f32>,
    is_constant: bool,
    mut with: impl FnMut(&mut Vec<f32>),
) {
    if is_constant {
        with(&mut found.decay);
    }
    let [kw, kb] = &mut found.key_weights;
    let [qw, qb] = &mut found.query_weights;
    [&mut found.a_log, &mut found.dt_bias, kw, kb, qw, qb].into_iter().for_each(with);
}

/// The summary of no tokens.
fn empty(config: &Config, shape: &Shape) -> Result<Summary, Error> {
    Ok(Summary::empty(config, shape.value_heads, shape.sequences())?)
}

/// From zero.
fn without_state(inputs: Inputs<'_>) -> Inputs<'_> {
    let mut inputs = inputs;
    inputs.initial_state = None;
    inputs
}

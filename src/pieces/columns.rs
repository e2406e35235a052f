//! A delta rule with F more columns of values, whose final state has the matrix of a piece.

use crate::error::Error;
use crate::problem::config::{Config, Normalization};
use crate::problem::heads::Heads;
use crate::problem::io::Inputs;
use crate::problem::shape::Shape;
use crate::problem::state::StateSlices;
use crate::problem::strides::TensorStrides;

/// A token multiplies a state by a matrix and adds to it, column by column: columns that begin as
/// the identity and whose values are 0 end as the product of the matrices.
pub(crate) struct Columns {
    pub(crate) shape: Shape,
    /// `[B,T,E,V+F]`.
    v: Vec<f32>,
    /// `[N,E,F,V+F]`.
    mu: Vec<f32>,
}

/// The config with F more columns, for a rule that needs them; any other is as it was.
pub(crate) fn with_columns(config: &Config) -> Config {
    let more = config.update_rule.beta().map_or(0, |_| config.features());
    Config { value_dim: config.value_dim.saturating_add(more), ..config.clone() }
}

/// The config with an eps, if it has a quotient. The outputs of a summary are not used, so the
/// quotient does not matter; with eps = 0, keys that vanish would be refused, which a piece must
/// accept, since the keys before it need not vanish.
pub(crate) fn without_average(config: &Config) -> Config {
    let normalization = match config.normalization {
        Normalization::None => Normalization::None,
        Normalization::Sum { .. } => Normalization::Sum { eps: 1.0 },
        Normalization::SignedSum { .. } => Normalization::SignedSum { eps: 1.0 },
    };
    Config { normalization, ..config.clone() }
}

impl Columns {
    /// Further columns for the inputs of a delta rule that `Inputs::check` accepts.
    ///
    /// # Errors
    ///
    /// More columns than a config has, or more elements than a shape.
    pub(crate) fn new(config: &Config, shape: &Shape, inputs: Inputs<'_>) -> Result<Self, Error> {
        let (value_dim, features) = (config.value_dim as usize, config.features() as usize);
        let heads = Heads::new(config, shape);
        let columns = value_dim + features;
        let config = with_columns(config);
        config.validate()?;
        let contiguous = TensorStrides::contiguous(&config, shape);
        let strides = |of| TensorStrides { v: contiguous.v, o: contiguous.o, ..of };
        let shape = Shape { strides: shape.strides.map(strides), ..shape.clone() };
        let lens = shape.lens(&config)?;
        let mut v = vec![0.0; lens.v as usize];
        for t in shape.token_ranges().unwrap_or_default().into_iter().flatten() {
            for e in 0..heads.value {
                let row = &inputs.v[heads.value(t, e)..][..value_dim];
                v[(t * heads.value + e) * columns..][..value_dim].copy_from_slice(row);
            }
        }
        let mut mu = vec![0.0; lens.mu as usize];
        for state in mu.chunks_mut(features * columns) {
            state.iter_mut().skip(value_dim).step_by(columns + 1).for_each(|x| *x = 1.0);
        }
        Ok(Self { shape, v, mu })
    }

    /// The inputs with more columns.
    pub(crate) fn inputs<'a>(&'a self, inputs: Inputs<'a>) -> Inputs<'a> {
        let initial_state = Some(StateSlices { mu: &self.mu, nu: &[] });
        Inputs { v: &self.v, initial_state, ..inputs }
    }
}

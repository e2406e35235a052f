//! The summary of a piece of a sequence, on a device.

use crate::attention::LinearAttention;
use crate::error::{ConfigError, Error};
use crate::pieces::columns::{Columns, with_columns, without_average};
use crate::pieces::{Summary, check};
use crate::problem::config::Config;
use crate::problem::io::{Inputs, Output};
use crate::problem::shape::Shape;

/// Makes the summaries of one [`Config`] on one device: see [`Summary`]. A summary is a call of
/// [`LinearAttention::run`] whose outputs are discarded: from zero or, for a delta rule, with F
/// more columns of values.
#[derive(Debug)]
pub struct Summarizer {
    config: Config,
    attention: LinearAttention,
}

impl Summarizer {
    /// A summarizer for `config`. Compiles no pipeline yet.
    ///
    /// # Errors
    ///
    /// A config out of range, or limits too small for it; for a delta rule V + F beyond
    /// [`MAX_VALUE_DIM`](crate::shape::MAX_VALUE_DIM).
    pub fn new(device: &wgpu::Device, config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let attention = LinearAttention::new(device, with_columns(&without_average(&config)))?;
        Ok(Self { config, attention })
    }

    /// The config it was made for.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The summary of the tokens of a call, for any states before them; blocks this thread until
    /// the device is done.
    ///
    /// # Errors
    ///
    /// As [`LinearAttention::run`], but for keys that vanish; [`Error::RuleTensor`] for an initial
    /// state.
    #[cfg(not(target_arch = "wasm32"))]
    pub fn run(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Summary, Error> {
        let columns = self.columns(shape, inputs)?;
        let (with_columns, of_columns) = call(columns.as_ref(), shape, inputs);
        let output = self.attention.run(queue, with_columns, of_columns)?;
        self.summary(shape, inputs, &output)
    }

    /// The same without blocking: see [`LinearAttention::run_async`].
    ///
    /// # Errors
    ///
    /// As [`Summarizer::run`]; or there is no thread to be had.
    pub async fn run_async(
        &self,
        queue: &wgpu::Queue,
        shape: &Shape,
        inputs: Inputs<'_>,
    ) -> Result<Summary, Error> {
        let columns = self.columns(shape, inputs)?;
        let (with_columns, of_columns) = call(columns.as_ref(), shape, inputs);
        let output = self.attention.run_async(queue, with_columns, of_columns).await?;
        self.summary(shape, inputs, &output)
    }

    fn columns(&self, shape: &Shape, inputs: Inputs<'_>) -> Result<Option<Columns>, Error> {
        check(&self.config, shape, inputs)?;
        if self.config.update_rule.beta().is_none() {
            return Ok(None);
        }
        // A refusal then names the caller's tensors and elements.
        inputs.check(&self.config, shape)?;
        Columns::new(&self.config, shape, inputs).map(Some)
    }

    fn summary(
        &self,
        shape: &Shape,
        inputs: Inputs<'_>,
        output: &Output,
    ) -> Result<Summary, Error> {
        Summary::of_output(&self.config, shape, inputs, output)
    }
}

/// The call to make.
fn call<'a>(
    columns: Option<&'a Columns>,
    shape: &'a Shape,
    inputs: Inputs<'a>,
) -> (&'a Shape, Inputs<'a>) {
    columns.map_or((shape, inputs), |columns| (&columns.shape, columns.inputs(inputs)))
}

//! The way from a tensor of any backend to that backend's implementation, and back.

use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Device as _, DispatchAutodiffContext, DispatchTensor,
    DispatchTensorKind, TensorMetadata,
};

use crate::call::Call;
use crate::error::Error;
use crate::host;
use crate::inputs::{Outputs, Parts};

/// Attention on a backend's own tensors.
pub(crate) trait Attend: Backend {
    /// o, and the final state where the call returns it.
    fn attend(
        inputs: Parts<FloatTensor<Self>>,
        call: &Call,
    ) -> Result<Outputs<FloatTensor<Self>>, Error> {
        host::attend::<Self>(inputs, call)
    }

    /// The gradients of a loss by the inputs, from those by o and the final state. The inputs are
    /// all that it is computed from.
    fn gradients(
        inputs: Parts<FloatTensor<Self>>,
        by_outputs: Outputs<FloatTensor<Self>>,
        call: &Call,
    ) -> Result<Parts<FloatTensor<Self>>, Error> {
        host::gradients::<Self>(inputs, by_outputs, call)
    }
}

#[cfg(feature = "flex")]
impl Attend for burn::backend::Flex {}

#[cfg(feature = "ndarray")]
#[expect(deprecated, reason = "it is Burn's older backend, which programs still have")]
impl Attend for burn::backend::NdArray {}

/// Unwraps the tensors of one backend, calls its implementation, and wraps the outputs.
macro_rules! on {
    ($kind:ident, $inputs:expr, $call:expr, $context:expr) => {
        match $context {
            DispatchAutodiffContext::Disabled => {
                let inputs = $inputs.try_map(|tensor, x| match x.kind {
                    DispatchTensorKind::$kind(BackendTensor::Float(x)) => Ok(x),
                    _ => Err(Error::OtherDevice { tensor }),
                })?;
                let inputs = on_one_device(inputs)?;
                let outputs = burn::backend::$kind::attend(inputs, $call)?;
                Ok(outputs.map(|x| DispatchTensor {
                    kind: DispatchTensorKind::$kind(BackendTensor::Float(x)),
                    autodiff: $context,
                }))
            }
            #[cfg(feature = "autodiff")]
            DispatchAutodiffContext::Enabled(strategy) => {
                use burn::backend::autodiff::checkpoint::strategy;
                use burn::backend::{Autodiff, AutodiffBackend, GradientCheckpointingStrategy};
                // Tensors without gradients are constants of a graph that others have.
                let inputs = $inputs.try_map(|tensor, x| match x.kind {
                    DispatchTensorKind::Autodiff(kind) => match *kind {
                        DispatchTensorKind::$kind(BackendTensor::Autodiff(x)) => Ok(x),
                        _ => Err(Error::OtherDevice { tensor }),
                    },
                    DispatchTensorKind::$kind(BackendTensor::Float(x)) => {
                        Ok(<Autodiff<burn::backend::$kind> as AutodiffBackend>::from_inner(x))
                    }
                    #[allow(unreachable_patterns, reason = "there may be one backend alone")]
                    _ => Err(Error::OtherDevice { tensor }),
                })?;
                let inputs = on_one_device(inputs)?;
                type B = burn::backend::$kind;
                let outputs = match strategy {
                    GradientCheckpointingStrategy::Balanced => {
                        Autodiff::<B, strategy::BalancedCheckpointing>::attend(inputs, $call)?
                    }
                    GradientCheckpointingStrategy::Disabled => {
                        Autodiff::<B, strategy::NoCheckpointing>::attend(inputs, $call)?
                    }
                };
                Ok(outputs.map(|x| DispatchTensor {
                    kind: DispatchTensorKind::Autodiff(Box::new(DispatchTensorKind::$kind(
                        BackendTensor::Autodiff(x),
                    ))),
                    autodiff: $context,
                }))
            }
            #[cfg(not(feature = "autodiff"))]
            DispatchAutodiffContext::Enabled(_) => {
                let actual =
                    format!("{:?} with the crate's feature autodiff off", $inputs.q.device());
                Err(Error::Backend { actual })
            }
        }
    };
}

/// Calls the implementation of the backend that q is on.
pub(crate) fn dispatch(
    inputs: Parts<DispatchTensor>,
    call: &Call,
) -> Result<Outputs<DispatchTensor>, Error> {
    let context = context(&inputs)?;
    let kind = match &inputs.q.kind {
        #[cfg(feature = "autodiff")]
        DispatchTensorKind::Autodiff(kind) => kind,
        kind => kind,
    };
    match kind {
        #[cfg(feature = "flex")]
        DispatchTensorKind::Flex(_) => on!(Flex, inputs, call, context),
        #[cfg(feature = "ndarray")]
        DispatchTensorKind::NdArray(_) => {
            #[allow(deprecated, reason = "it is Burn's older backend, which programs still have")]
            {
                on!(NdArray, inputs, call, context)
            }
        }
        #[cfg(feature = "wgpu")]
        DispatchTensorKind::Cube(_) => on!(Cube, inputs, call, context),
        #[allow(unreachable_patterns, reason = "a build may have these backends alone")]
        _ => Err(Error::Backend { actual: format!("{:?}", inputs.q.device()) }),
    }
}

/// The autodiff context of the call: that of the tensors which have one.
fn context(inputs: &Parts<DispatchTensor>) -> Result<DispatchAutodiffContext, Error> {
    use DispatchAutodiffContext::{Disabled, Enabled};
    let mut merged = Disabled;
    inputs.as_ref().try_map(|tensor, x| match (merged, x.autodiff) {
        (_, Disabled) => Ok(()),
        (Enabled(first), Enabled(second)) if first != second => Err(Error::Unsupported {
            what: "a second strategy of gradient checkpointing",
            actual: format!("{second:?} of {tensor} beside {first:?}"),
        }),
        (_, enabled) => {
            merged = enabled;
            Ok(())
        }
    })?;
    Ok(merged)
}

/// The inputs, if they are on one device of their backend.
fn on_one_device<T: TensorMetadata>(inputs: Parts<T>) -> Result<Parts<T>, Error> {
    let device = inputs.q.device().to_id();
    inputs.try_map(|tensor, x| match x.device().to_id() == device {
        true => Ok(x),
        false => Err(Error::OtherDevice { tensor }),
    })
}

//! Fusion: Burn records operations and runs them later, and attention among them.

use burn::backend::ExecutionError;
use burn::backend::TensorMetadata;
use burn::backend::fusion::custom::{CustomOpIr, HandleContainer, OperationIr, StreamId, TensorIr};
use burn::backend::fusion::stream::Operation;
use burn::backend::fusion::{Fusion, FusionBackend, FusionRuntime, FusionTensor};
use burn_cubecl::CubeBackend;

use crate::backend::Attend;
use crate::call::Call;
use crate::cube;
use crate::error::Error;
use crate::inputs::{Outputs, Parts};

type FusedRuntime = <CubeBackend as FusionBackend>::FusionRuntime;
type Handles = HandleContainer<<FusedRuntime as FusionRuntime>::FusionHandle>;

impl Attend for Fusion<CubeBackend> {
    fn attend(
        inputs: Parts<FusionTensor<FusedRuntime>>,
        call: &Call,
    ) -> Result<Outputs<FusionTensor<FusedRuntime>>, Error> {
        let client = inputs.q.client.clone();
        cube::check(client.device(), call)?;
        let dtypes = Outputs { o: call.dtype(), state: Some(burn::tensor::DType::F32) };
        let dims = call.output_dims();
        let uninit = |dims, dtype| TensorIr::uninit(client.create_empty_handle(), dims, dtype);
        let outputs = Outputs {
            o: uninit(dims.o, dtypes.o),
            state: dims.state.zip(dtypes.state).map(|(dims, dtype)| uninit(dims, dtype)),
        };
        let inputs = inputs.map(FusionTensor::into_ir);
        let operation = OperationIr::Custom(CustomOpIr {
            id: "linear_attention".into(),
            inputs: inputs.clone().into_vec(),
            outputs: [Some(outputs.o.clone()), outputs.state.clone()]
                .into_iter()
                .flatten()
                .collect(),
            scalars: Vec::new(),
        });
        let attention = Attention { inputs, outputs, call: call.clone() };
        let mut made = client.register(StreamId::current(), operation, attention).into_iter();
        let o =
            made.next().ok_or_else(|| Error::burn("record attention", &"no output was made"))?;
        Ok(Outputs { o, state: made.next() })
    }

    fn gradients(
        inputs: Parts<FusionTensor<FusedRuntime>>,
        by_outputs: Outputs<FusionTensor<FusedRuntime>>,
        call: &Call,
    ) -> Result<Parts<FusionTensor<FusedRuntime>>, Error> {
        let client = inputs.q.client.clone();
        let found = inputs
            .as_ref()
            .map(|of| TensorIr::uninit(client.create_empty_handle(), of.shape(), of.dtype()));
        let inputs = inputs.map(FusionTensor::into_ir);
        let by_outputs = by_outputs.map(FusionTensor::into_ir);
        let by = [Some(by_outputs.o.clone()), by_outputs.state.clone()];
        let operation = OperationIr::Custom(CustomOpIr {
            id: "linear_attention_backward".into(),
            inputs: inputs.clone().into_vec().into_iter().chain(by.into_iter().flatten()).collect(),
            outputs: found.clone().into_vec(),
            scalars: Vec::new(),
        });
        let gradients = Gradients { inputs, by_outputs, found: found.clone(), call: call.clone() };
        let mut made = client.register(StreamId::current(), operation, gradients).into_iter();
        found.try_map(|tensor, _| {
            made.next().ok_or_else(|| Error::burn("record gradients", &tensor))
        })
    }
}

/// A call that Burn has recorded.
#[derive(Debug)]
struct Attention {
    inputs: Parts<TensorIr>,
    outputs: Outputs<TensorIr>,
    call: Call,
}

impl Operation<FusedRuntime> for Attention {
    /// An error is that of whoever reads an output.
    fn execute(&self, handles: &mut Handles) -> Result<(), ExecutionError> {
        let inputs = self.inputs.as_ref().map(|ir| handles.get_float_tensor::<CubeBackend>(ir));
        let found = CubeBackend::attend(inputs, &self.call)
            .map_err(|error| ExecutionError::generic(error.to_string()))?;
        handles.register_float_tensor::<CubeBackend>(&self.outputs.o.id, found.o);
        if let Some((ir, state)) = self.outputs.state.as_ref().zip(found.state) {
            handles.register_float_tensor::<CubeBackend>(&ir.id, state);
        }
        Ok(())
    }
}

/// A backward pass that Burn has recorded.
#[derive(Debug)]
struct Gradients {
    inputs: Parts<TensorIr>,
    by_outputs: Outputs<TensorIr>,
    found: Parts<TensorIr>,
    call: Call,
}

impl Operation<FusedRuntime> for Gradients {
    /// An error is that of whoever reads a gradient.
    fn execute(&self, handles: &mut Handles) -> Result<(), ExecutionError> {
        let inputs = self.inputs.as_ref().map(|ir| handles.get_float_tensor::<CubeBackend>(ir));
        let by_outputs =
            self.by_outputs.clone().map(|ir| handles.get_float_tensor::<CubeBackend>(&ir));
        let found = CubeBackend::gradients(inputs, by_outputs, &self.call)
            .map_err(|error| ExecutionError::generic(error.to_string()))?;
        let found = found.into_vec().into_iter();
        for (ir, gradient) in self.found.clone().into_vec().into_iter().zip(found) {
            handles.register_float_tensor::<CubeBackend>(&ir.id, gradient);
        }
        Ok(())
    }
}

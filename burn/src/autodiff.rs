//! The backward pass: a node of Burn's graph that keeps the inputs, and nothing else.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, FloatDType, Shape as Dims, Slice};

use crate::backend::Attend;
use crate::call::Call;
use crate::error::Error;
use crate::host;
use crate::inputs::{Outputs, Parts};

impl<B: Attend, C: CheckpointStrategy> Attend for Autodiff<B, C> {
    fn attend(
        inputs: Parts<FloatTensor<Self>>,
        call: &Call,
    ) -> Result<Outputs<FloatTensor<Self>>, Error> {
        call.check_derivative()?;
        let packed = match inputs.as_ref().into_vec().len() {
            4 => node::<B, C, 4>(inputs, call)?,
            5 => node::<B, C, 5>(inputs, call)?,
            6 => node::<B, C, 6>(inputs, call)?,
            7 => node::<B, C, 7>(inputs, call)?,
            _ => node::<B, C, 3>(inputs, call)?,
        };
        Ok(unpack::<Self>(packed, call))
    }
}

/// The node of a call with N inputs.
fn node<B: Attend, C: CheckpointStrategy, const N: usize>(
    inputs: Parts<FloatTensor<Autodiff<B, C>>>,
    call: &Call,
) -> Result<FloatTensor<Autodiff<B, C>>, Error> {
    let nodes: Vec<NodeGuard> = inputs.as_ref().map(|x| x.node()).into_vec();
    let Ok(nodes) = <[NodeGuard; N]>::try_from(nodes) else {
        return Err(Error::burn("make a node", &format_args!("it must have {N} inputs")));
    };
    let primitives = inputs.as_ref().map(|x| x.primitive().clone());
    let packed = pack::<B>(B::attend(primitives, call)?, call);
    Ok(match Attention.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let inputs = inputs.as_ref().map(|x| prep.checkpoint(x));
            prep.finish(State { inputs, call: call.clone() }, packed)
        }
        OpsKind::UnTracked(prep) => prep.finish(packed),
    })
}

#[derive(Debug)]
struct Attention;

#[derive(Clone, Debug)]
struct State {
    inputs: Parts<NodeId>,
    call: Call,
}

impl<B: Attend, const N: usize> Backward<B, N> for Attention {
    type State = State;

    /// Burn has no way to return an error here: gradients of a pass that failed are NaN.
    fn backward(self, ops: Ops<State, N>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let State { inputs, call } = ops.state;
        let by_outputs = unpack::<B>(grads.consume::<B>(&ops.node), &call);
        let inputs = inputs.map(|id| checkpointer.retrieve_node_output::<FloatTensor<B>>(id));
        let found = match B::gradients(inputs.clone(), by_outputs, &call) {
            Ok(found) => found,
            Err(error) => {
                log::error!("linear attention has no gradients: {error}");
                host::nans::<B>(&inputs)
            }
        };
        for (parent, gradient) in ops.parents.into_iter().zip(found.into_vec()) {
            if let Some(parent) = parent {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

/// o and the final state in one tensor, since a node has one output: `[o ++ state]` in f32, or o
/// itself where the call returns no state.
fn pack<B: Backend>(outputs: Outputs<FloatTensor<B>>, call: &Call) -> FloatTensor<B> {
    let Some(state) = outputs.state else { return outputs.o };
    let flat = |x: FloatTensor<B>| {
        let len = x.shape().num_elements();
        B::float_reshape(x, Dims::new([len]))
    };
    let o = if call.dtype() == DType::F32 {
        outputs.o
    } else {
        B::float_cast(outputs.o, FloatDType::F32)
    };
    B::float_cat(vec![flat(o), flat(state)], 0)
}

/// o and the final state from the tensor that [`pack`] made, or their gradients.
fn unpack<B: Backend>(packed: FloatTensor<B>, call: &Call) -> Outputs<FloatTensor<B>> {
    let dims = call.output_dims();
    let Some(of_state) = dims.state else { return Outputs { o: packed, state: None } };
    let (o_len, len) = (dims.o.num_elements(), packed.shape().num_elements());
    let part = |x, begin: usize, end: usize, dims| {
        let range = Slice::new(begin as isize, Some(end as isize), 1);
        <B as FloatTensorOps<B>>::float_reshape(B::float_slice(x, &[range]), dims)
    };
    let o = part(packed.clone(), 0, o_len, dims.o);
    let o = match call.dtype() {
        DType::F16 => B::float_cast(o, FloatDType::F16),
        DType::BF16 => B::float_cast(o, FloatDType::BF16),
        _ => o,
    };
    Outputs { o, state: Some(part(packed, o_len, len, of_state)) }
}

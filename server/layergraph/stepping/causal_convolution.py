"""Calls of causal convolutions that begin with the last inputs of the step before."""

from __future__ import annotations

from collections.abc import Sequence

from layergraph.execution.step import Step
from layergraph.functional.tensor import Tensor
from layergraph.layers.convolutional.convolution import WindowedConvolution
from layergraph.layers.merging import Concatenate
from layergraph.stepping.layer_copies import copy_of
from layergraph.stepping.state_tensors import StateTensors


def refusal(step: Step) -> str:
    """Why a causal convolution can't go on from its last inputs; "" if it can."""
    layer: WindowedConvolution = step.call.layer
    if layer.strides != (1,):
        return f"is a convolution over time with strides {layer.strides[0]}, expected 1"
    if layer.channels_first:
        return "is a convolution over time with data_format='channels_first', expected 'channels_last'"
    if step.made[0].mask_shape is not None:
        return "is a convolution over time that passes a mask on"
    return ""


def next_call(step: Step, tensors: Sequence[Tensor], path: str, states: StateTensors) -> list[Tensor]:
    """Repeats the call on other tensors, with its last inputs as a state. Returns its outputs."""
    layer: WindowedConvolution = step.call.layer
    (x,) = tensors
    count = layer.windows[0] - 1
    dtype = layer.compute_dtype if x.dtype.startswith(("float", "bfloat")) else x.dtype
    before = states.add(f"{path}/inputs", path, (count, *x.shape[2:]), dtype)
    name = states.names.free(f"{path}/all_inputs")
    join = Concatenate(axis=1, name=name, dtype=layer.compute_dtype)
    states.own(join, path, layer)
    joined = join([before, x])
    states.finish([joined[:, -count:]])
    copy = copy_of(layer, states.names.free(path), padding="valid")
    states.own(copy, path, layer)
    return [copy(joined)]

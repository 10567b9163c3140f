"""Calls that look at earlier timesteps and can continue: recurrent layers and causal convolutions."""

from __future__ import annotations

from collections.abc import Sequence

from layergraph.execution.step import Step
from layergraph.functional.layer import Layer
from layergraph.layers.convolutional.convolution import Conv1D
from layergraph.layers.convolutional.depthwise import SeparableConv1D
from layergraph.layers.rnn.recurrent import Recurrent

CausalConvolution = (Conv1D, SeparableConv1D)


def looks_back(step: Step) -> bool:
    """Whether a call's outputs depend on earlier timesteps of its first argument, in a way that a state can keep."""
    layer: Layer = step.call.layer
    if isinstance(layer, Recurrent):
        return True
    if not isinstance(layer, CausalConvolution) or len(step.call.tensors) != 1:
        return False
    return layer.padding == "causal" and layer.windows[0] > 1 and len(step.call.tensors[0].shape) == 3


def sequence_of(step: Step) -> int:
    """Slot of the sequences that such a call takes."""
    return step.sources[0]


def initial_states_of(step: Step) -> Sequence[int]:
    """Slots of the states that a call of a recurrent layer begins with, if the graph gives them."""
    if not isinstance(step.call.layer, Recurrent):
        return ()
    return [step.sources[at] for at in step.call.positions("initial_state")]


def has_timesteps(step: Step) -> bool:
    """Whether the first output of such a call has timesteps."""
    layer = step.call.layer
    return not isinstance(layer, Recurrent) or layer.return_sequences

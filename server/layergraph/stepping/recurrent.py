"""Calls of recurrent layers that begin with the states of the step before, and return their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from layergraph.execution.step import Step
from layergraph.functional.binding import bind_values
from layergraph.functional.invocation import Invocation
from layergraph.functional.nest import flatten
from layergraph.functional.tensor import Tensor
from layergraph.layers.rnn.cells import Cell
from layergraph.layers.rnn.convolutional import LAYERS as CONVOLUTIONAL
from layergraph.layers.rnn.recurrent import Recurrent, StackedRNNCells
from layergraph.stepping.held_output import HeldOutput
from layergraph.stepping.layer_copies import copy_of
from layergraph.stepping.state import Array
from layergraph.stepping.state_tensors import StateTensors


def refusal(step: Step) -> str:
    """Why a call of a recurrent layer can't go on from a state; "" if it can."""
    layer: Recurrent = step.call.layer
    if layer.go_backwards:
        return "reads the timesteps backwards (go_backwards=True)"
    if layer.time_major:
        return "has timesteps as axis 0 (time_major=True)"
    return ""


def next_call(step: Step, tensors: Sequence[Tensor], path: str, states: StateTensors) -> list[Tensor]:
    """Repeats the call on other tensors, with states as inputs and outputs. Returns its outputs."""
    layer: Recurrent = step.call.layer
    given = step.call.positions("initial_state")
    masked = _takes_mask(step)
    # Keras 3 leaves the inputs' mask out of calls with initial states.
    rule = "keras3" if not masked else layer.mask_rule if layer.mask_rule != "keras3" else "keras2"
    copy = copy_of(layer, states.names.free(path), return_state=True, stateful=False, mask_rule=rule)
    states.own(copy, path, layer)
    sequences, kwargs = tensors[0], {}
    if "mask" in step.call.template[1] or step.call.unmasked:
        kwargs["mask"] = step.call.arguments(tensors)[1]["mask"]
    _, *ends = flatten(copy.infer(Invocation(copy, (sequences,), dict(kwargs))))
    firsts = _first_states(layer, len(ends))
    begins = []
    for name, end, first, at in zip(
        _state_names(layer, len(ends)), ends, firsts, given or [None] * len(ends), strict=False
    ):
        source = None if at is None else step.sources[at]
        begins.append(states.add(f"{path}/{name}", path, end.shape[1:], end.dtype, first=first, computed_by=source))
    output, *ends = flatten(copy(sequences, initial_state=begins, **kwargs))
    states.finish(ends)
    made = [output, *ends] if layer.return_state else [output]
    if masked and _holds(layer):
        held = states.add(f"{path}/output", path, _one_row(layer, output), output.dtype)
        hold = HeldOutput(layer.return_sequences, name=states.names.free(f"{path}/held_output"))
        states.own(hold, path, layer)
        made[0], last = hold(output, held, sequences, **kwargs)
        states.finish([last])
    return made


def _takes_mask(step: Step) -> bool:
    """Whether the call gets a mask of the timesteps: as an argument, or that of its inputs."""
    if step.call.positions("mask"):
        return True
    sources = step.call.mask_sources
    names = ["mask"] if step.call.layer.mask_rule == "keras3" else ["mask", "sequences_mask"]
    taken = [tensor for name in names for tensor in flatten(sources.get(name))]
    return any(tensor is not None and tensor.mask_shape is not None for tensor in taken)


def _one_row(layer: Recurrent, output: Tensor) -> tuple[int | None, ...]:
    return output.shape[2:] if layer.return_sequences else output.shape[1:]


def _holds(layer: Recurrent) -> bool:
    """Whether the output at masked timesteps is the last one, and differs from what a call begins with."""
    return not layer.zero_output_for_mask and (layer.mask_rule != "start" or layer.unroll)


def _state_names(layer: Recurrent, count: int) -> list[str]:
    cells = _cells(layer)
    if isinstance(layer, Cell) or type(layer) in CONVOLUTIONAL.values():
        return ["h", "c"][:count]
    names = []
    for number, cell in enumerate(cells):
        sizes = len(flatten(getattr(cell, "state_size", 1)))
        own = ["h", "c"][:sizes] if isinstance(cell, Cell) else [str(at) for at in range(sizes)]
        names += [f"{number}_{name}" if len(cells) > 1 else name for name in own]
    return names if len(names) == count else [str(at) for at in range(count)]


def _cells(layer: Recurrent) -> list[Any]:
    cell = getattr(layer, "cell", None)
    return list(cell.cells) if isinstance(cell, StackedRNNCells) else [cell]


def _first_states(layer: Recurrent, count: int) -> list[Array | None]:
    """The states of one row before the first timestep, where a cell has others than zeros."""
    if all(cell is None or isinstance(cell, Cell) for cell in _cells(layer)):
        return [None] * count
    x = torch.zeros(1, 1, 1)
    with torch.no_grad():
        firsts = [first for cell, _ in layer.cells(bind_values(layer)) for first in cell.initial_states(x)]
    return [np.asarray(first[0].float() if first.dtype == torch.bfloat16 else first[0]) for first in firsts]

"""Custom cells of RNN: layers that have `state_size`, and whose `call(inputs, states)` computes one timestep."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import short_repr
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import is_recorded_for_file
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.shape_inference import infer_anew
from layergraph.functional.tensor import History, Tensor
from layergraph.layers.rnn.cells import Cell, States, Watch, loop, zero_states
from layergraph.layers.rnn.kernels import Scanned
from layergraph.layers.rnn.recorded_loop import recorded_loop


def is_custom_cell(value: Any) -> bool:
    """Whether a value is a layer that computes a timestep by its `call`."""
    return isinstance(value, Layer) and value.computes_by_call and hasattr(value, "state_size")


def build_cell(cell: Layer, input_shape: Any) -> int:
    """Builds a cell for the inputs of a timestep; returns the number of features of its output.

    Raises GraphError if its `call` doesn't return the output and the next states.
    """
    if not is_custom_cell(cell):
        assert isinstance(cell, Cell)
        if not cell.built:
            cell.build(input_shape)
            cell.built = True
        return cell.state_sizes[0]
    sizes = CalledCell(cell).state_sizes
    args = tuple(
        Tensor((input_shape[0], n), cell.compute_dtype, History(cell, -1, 0)) for n in (input_shape[-1], *sizes)
    )
    cell.build_for((args[0], list(args[1:])))
    outputs = flatten(infer_anew(Invocation(cell, (args[0], list(args[1:])), {})))
    if len(outputs) != 1 + len(sizes):
        raise GraphError(
            f"layer '{cell.name}' ({type(cell).__name__}): call returns {len(outputs)} tensors, expected the output "
            f"and {len(sizes)} states, as in state_size"
        )
    return outputs[0].shape[-1] or 0


class CalledCell:
    """A custom layer as a cell.

    layer   the layer
    width   number of features of the output
    """

    def __init__(self, layer: Layer, width: int = 0) -> None:
        self._layer: Any = layer
        self._width = width

    @property
    def compute_dtype(self) -> str:
        """Dtype of the computation."""
        dtype: str = self._layer.compute_dtype
        return dtype

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Number of features of each state. Raises GraphError for states of another rank."""
        sizes = flatten(self._layer.state_size)
        if not sizes or not all(isinstance(size, int) for size in sizes):
            raise GraphError(
                f"layer '{self._layer.name}' ({type(self._layer).__name__}): state_size is "
                f"{short_repr(self._layer.state_size)}, expected an integer or a list of integers"
            )
        return tuple(sizes)

    def initial_states(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The states before the first of the timesteps x: those of `get_initial_state`, or zeros."""
        if not hasattr(self._layer, "get_initial_state"):
            return zero_states(x, self.state_sizes, self.compute_dtype)
        dtype = torch_dtype(self.compute_dtype)
        return [state.to(x.device, dtype) for state in flatten(self._layer.get_initial_state(batch_size=x.shape[0]))]

    def scan(
        self,
        context: CallContext,
        w: Any,
        x: torch.Tensor,
        states: States,
        mask: torch.Tensor | None,
        *,
        need_states: bool,
        watch: Watch | None = None,
    ) -> Scanned:
        """Like `Cell.scan`."""
        x = x.to(torch_dtype(self.compute_dtype))
        if x.is_meta:
            return x.new_empty((*x.shape[:2], self._width)), list(states)
        states = [state if state.shape[0] == x.shape[0] else state.expand(x.shape[0], -1) for state in states]

        def take(one: torch.Tensor, before: States) -> list[torch.Tensor]:
            output, after = self._layer.forward(context, w, one, list(before[1:]))
            made = [output, *flatten(after)]
            if watch is not None:
                watch(output, made[1:])
            return made

        # The output is a further state, which the first masked timesteps leave at zero.
        started = [x.new_zeros((x.shape[0], self._width)), *states]
        if is_recorded_for_file() and not context.training and watch is None:
            outputs, ends = recorded_loop(take, x, started, mask, (self._width, *self.state_sizes))
        else:
            outputs, ends = loop(lambda t, before: take(x[:, t], before), x, started, mask)
        return outputs, list(ends)[1:]

"""Recurrent layers (keras.layers.SimpleRNN, LSTM, GRU, RNN and the cells)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch

from layergraph.config.options import Expected, anything, boolean, one_of, option
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.nest import Structure, flatten
from layergraph.functional.storage_layout import StorageLayout
from layergraph.functional.weights import Weights
from layergraph.layers.rnn.cells import Cell, GruCell, LstmCell, SimpleCell, States, Watch
from layergraph.layers.rnn.custom_cells import CalledCell, build_cell, is_custom_cell
from layergraph.layers.rnn.kernels import Scanned
from layergraph.plugins import custom_layers

#: A cell of Keras's, or a custom one.
AnyCell: TypeAlias = Cell | CalledCell

#: The watch of each cell, or None.
Watches: TypeAlias = Sequence[Watch | None]


class Recurrent(Layer):
    """Runs a cell over (rows, timesteps, features); returns the output of the last timestep, (rows, units).

    return_sequences       returns the outputs of all timesteps, (rows, timesteps, units)
    return_state           also returns the states after the last timestep
    go_backwards           processes the timesteps from last to first; outputs are in that order
    stateful               each training batch starts from the final states of the one before, row by row; otherwise
                           each call starts from zeros: a server's calls come from different clients
    zero_output_for_mask   returns 0 at masked timesteps rather than the previous output
    time_major             timesteps are axis 0 of inputs and outputs; only in files of tf.keras
    mask_rule              whether the inputs' mask is used even if `initial_state` has tensors: not in `keras3`

    At a masked timestep the states stay, and the previous output is repeated. If there is none, the output is 0; with
    the `mask_rule` 'start' (Keras 2.0 to 2.2 on TensorFlow) it is the first of the last cell's initial states.
    """

    return_sequences: bool = option(boolean, default=False, kw_only=True)
    return_state: bool = option(boolean, default=False, kw_only=True)
    go_backwards: bool = option(boolean, default=False, kw_only=True)
    stateful: bool = option(boolean, default=False, kw_only=True)
    unroll: bool = option(boolean, default=False, kw_only=True)
    zero_output_for_mask: bool = option(boolean, default=False, kw_only=True)
    use_cudnn: Any = option(anything, default="auto", kw_only=True, saved=False)
    implementation: Any = option(anything, default=2, kw_only=True, saved=False)
    time_major: bool = option(boolean, default=False, kw_only=True)
    mask_rule: str = option(one_of("keras3", "keras2", "start"), default="keras3", kw_only=True, saved=False)

    supports_masking = True
    storage = StorageLayout(null_regularizer=True)

    def cells(self, w: Weights) -> list[tuple[AnyCell, Any]]:
        """Returns the stacked cells, each with its bound weights."""
        raise NotImplementedError

    def forward(
        self,
        context: CallContext,
        w: Weights,
        sequences: torch.Tensor,
        initial_state: Any = None,
        mask: torch.Tensor | None = None,
        sequences_mask: torch.Tensor | None = None,
    ) -> Any:
        """Returns outputs and, if requested, states. Raises GraphError for incompatible shapes."""
        if sequences.ndim != 3:
            raise GraphError(f"got shape {tuple(sequences.shape)}, expected (rows, timesteps, features)")
        if self.time_major:
            sequences = sequences.transpose(0, 1)
            mask, sequences_mask = (m if m is None else m.transpose(0, 1) for m in (mask, sequences_mask))
        if mask is None and self.mask_rule != "keras3":
            mask = sequences_mask
        mask = _fitting_mask(mask, sequences)
        cells = self.cells(w)
        starts = self._starts(cells, sequences, self.starting_states(context, sequences.shape[0], initial_state))
        keeps = self.stateful and context.states is not None
        x = sequences.flip(1) if self.go_backwards else sequences
        if mask is not None and self.go_backwards:
            mask = mask.flip(1)
        for watches in self.rehearsals(context):
            self._run_cells(context, cells, watches, sequences[:, :1], starts, None, need_states=False)
        x, ends = self._run_cells(
            context, cells, self.watches(context), x, starts, mask, need_states=self.return_state or keeps
        )
        self.keep_states(context, ends)
        if mask is not None and self.mask_rule == "start" and not self.unroll:
            first = starts[-len(cells[-1][0].state_sizes)]
            x = torch.where(mask.cumsum(1)[:, :, None] > 0, x, first[:, None].to(x.dtype))
        if mask is not None and self.zero_output_for_mask:
            x = torch.where(mask[:, :, None], x, 0)
        dtype = torch_dtype(self.compute_dtype)
        output = (x if self.return_sequences else _last(x)).to(dtype)
        if self.time_major and self.return_sequences:
            output = output.transpose(0, 1)
        return [output, *(state.to(dtype) for state in ends)] if self.return_state else output

    def _run_cells(
        self,
        context: CallContext,
        cells: list[tuple[AnyCell, Any]],
        watches: Watches | None,
        x: torch.Tensor,
        starts: list[torch.Tensor],
        mask: torch.Tensor | None,
        *,
        need_states: bool,
    ) -> Scanned:
        """Returns the last cell's outputs at all timesteps, and the final states of all cells."""
        ends: list[torch.Tensor] = []
        for (cell, weights), watch in zip(cells, watches or [None] * len(cells), strict=True):
            here, starts = starts[: len(cell.state_sizes)], starts[len(cell.state_sizes) :]
            x, states = cell.scan(context, weights, x, here, mask, need_states=need_states, watch=watch)
            ends += states
        return x, ends

    def watches(self, context: CallContext) -> Watches | None:
        """Watches of the cells, or None."""
        return None

    def rehearsals(self, context: CallContext) -> list[Watches]:
        """Watches for extra runs of the first timestep before the sequence, one per run."""
        return []

    def starting_states(self, context: CallContext, rows: int, given: Any) -> Any:
        """Returns the previous batch's final states if the layer is stateful and no states are given."""
        if not self.stateful or context.states is None or any(state is not None for state in flatten(given)):
            return given
        kept = context.states.get(self)
        return kept if kept and len(kept[0]) == rows else None

    def keep_states(self, context: CallContext, states: list[torch.Tensor]) -> None:
        """Stores the states that the next batch starts from."""
        if self.stateful and context.states is not None:
            context.states[self] = [state.detach() for state in states]

    def _starts(self, cells: list[tuple[AnyCell, Any]], x: torch.Tensor, initial_state: Any) -> list[torch.Tensor]:
        """Returns the initial states, given or zeros, in the cells' compute dtypes."""
        sizes = [size for cell, _ in cells for size in cell.state_sizes]
        dtypes = [torch_dtype(cell.compute_dtype) for cell, _ in cells for _ in cell.state_sizes]
        given = [state for state in flatten(initial_state) if state is not None]
        if not given:
            return [state for cell, _ in cells for state in cell.initial_states(x)]
        if len(sizes) == 1:
            # Cells of one state take the first of those given, such as an LSTM's.
            given = given[:1]
        if len(given) != len(sizes) or any(s.ndim != 2 or s.shape[1] != n for s, n in zip(given, sizes, strict=True)):
            shapes = [tuple(state.shape) for state in given]
            raise GraphError(f"got initial states of shapes {shapes}, expected {[('rows', n) for n in sizes]}")
        return [state.to(dtype) for state, dtype in zip(given, dtypes, strict=True)]

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """The timesteps' mask if sequences are returned; states have none."""
        known = next(iter(flatten(mask)), None) if self.return_sequences else None
        return [known] if self.return_state else known

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        # Keras 3 lacks the option, so it rejects a model that it would compute wrongly.
        return config if self.time_major else {key: value for key, value in config.items() if key != "time_major"}


def _last(x: torch.Tensor) -> torch.Tensor:
    return x[:, -1] if x.shape[1] else x.new_zeros((x.shape[0], x.shape[2]))


def _fitting_mask(mask: Any, x: torch.Tensor) -> torch.Tensor | None:
    """Returns the mask as booleans (rows, timesteps). Raises GraphError for another shape."""
    if isinstance(mask, (list, tuple)):
        mask = mask[0] if mask else None
    if mask is None:
        return None
    fitting: torch.Tensor = mask[..., 0] if mask.ndim == 3 and mask.shape[2] == 1 else mask
    if fitting.ndim != 2 or (fitting.shape != x.shape[:2] and not x.is_meta):
        raise GraphError(f"got a mask of shape {tuple(mask.shape)}, expected (rows, timesteps) = {tuple(x.shape[:2])}")
    return fitting.to(torch.bool)


class _OwnCell(Recurrent):
    """A recurrent layer that is its own cell: it owns the weights, which files store under `cell`."""

    storage = replace(Recurrent.storage, path=("cell",))

    def cells(self, w: Weights) -> list[tuple[AnyCell, Any]]:
        """Returns the layer itself."""
        assert isinstance(self, Cell)
        return [(self, w)]


class SimpleRNN(SimpleCell, _OwnCell):
    """h = activation(x @ kernel + h @ recurrent_kernel + bias) (keras.layers.SimpleRNN)."""

    storage = replace(_OwnCell.storage, scope="simple_rnn_cell")


class LSTM(LstmCell, _OwnCell):
    """Long short-term memory (keras.layers.LSTM). States are h and c, each (rows, units)."""

    storage = replace(_OwnCell.storage, scope="lstm_cell")


class GRU(GruCell, _OwnCell):
    """Gated recurrent unit (keras.layers.GRU)."""

    storage = replace(_OwnCell.storage, scope="gru_cell")


class _OneStep(Layer):
    """A cell called as a layer: maps inputs (rows, features) and states to the output and the next states."""

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, states: Any = None) -> Any:
        """Computes one timestep. Raises GraphError without states."""
        if states is None:
            raise GraphError("a cell must be called on inputs and states, got no states")
        assert isinstance(self, Cell)
        outputs, ends = self.scan(context, w, inputs[:, None], flatten(states), None, need_states=True)
        return [outputs[:, 0], *ends]

    def output_structure(self, outputs: list[Any]) -> Structure:
        """Returns the output, and a list of the next states."""
        return outputs[0], outputs[1:]


class SimpleRNNCell(SimpleCell, _OneStep):
    """One timestep of a SimpleRNN (keras.layers.SimpleRNNCell)."""


class LSTMCell(LstmCell, _OneStep):
    """One timestep of an LSTM (keras.layers.LSTMCell)."""


class GRUCell(GruCell, _OneStep):
    """One timestep of a GRU (keras.layers.GRUCell)."""


_CELLS: Mapping[str, type[Layer]] = {"GRUCell": GRUCell, "LSTMCell": LSTMCell, "SimpleRNNCell": SimpleRNNCell}


def _cell(value: Any) -> Any:
    """Validator: a cell, a stack or list of cells, or Keras's serialised form of one of them."""
    if isinstance(value, (list, tuple)) and value:
        return StackedRNNCells(_cells(value))
    if isinstance(value, Mapping) and isinstance(value.get("config"), Mapping):
        classes: dict[str, type[Layer]] = {**custom_layers(), **_CELLS, "StackedRNNCells": StackedRNNCells}
        known = classes.get(value.get("class_name", ""))
        value = value if known is None else known.from_config(value["config"])
    if isinstance(value, (Cell, StackedRNNCells)) or is_custom_cell(value):
        return value
    raise Expected(
        f"a cell or a list of cells: {', '.join(_CELLS)}, or a layer that has state_size and call(inputs, states)"
    )


def _cells(value: Any) -> list[Layer]:
    if not isinstance(value, (list, tuple)) or not value:
        raise Expected("a list of cells")
    cells = [_cell(item) for item in value]
    if any(isinstance(cell, StackedRNNCells) for cell in cells):
        raise Expected("a list of cells without stacks")
    return cells


class StackedRNNCells(Layer):
    """Stacked cells, each applied to the output of the one before (keras.layers.StackedRNNCells)."""

    cells: list[Layer] = option(_cells)

    def setup(self) -> None:
        """Registers the cells as sublayers, by their names in files."""
        counts: Counter[str] = Counter()
        for cell in self.cells:
            name = cell.group_name
            self.sublayers[f"cells/{name}" + (f"_{counts[name]}" if counts[name] else "")] = cell
            counts[name] += 1
        #: Number of features of each cell's output.
        self.widths: list[int] = []

    def build(self, input_shape: Any, *others: Any) -> None:
        self.widths.clear()
        for cell in self.cells:
            self.widths.append(build_cell(cell, input_shape))
            input_shape = (input_shape[0], self.widths[-1])


def _run(cell: Layer, width: int) -> AnyCell:
    """The cell as something that computes timesteps."""
    if is_custom_cell(cell):
        return CalledCell(cell, width)
    assert isinstance(cell, Cell)
    return cell


def _penalty(context: CallContext, cell: Layer, stack: StackedRNNCells | None = None) -> Watch:
    """Returns a watch that adds activity regularisation of a cell's timestep, and of its part in the stack's."""

    def add(output: torch.Tensor, states: States) -> None:
        cell.penalize(context, [output, *states])
        if stack is not None:
            stack.penalize(context, [output, *states] if cell is stack.cells[-1] else [*states])

    return add


class RNN(Recurrent):
    """A recurrent layer made of a cell, or of several stacked ones (keras.layers.RNN).

    With `return_state`, the states of a stack are returned as one list per cell.
    """

    cell: Any = option(_cell)

    storage = StorageLayout()

    def setup(self) -> None:
        self.sublayers["cell"] = self.cell
        self._width = 0

    def build(self, input_shape: Any, *others: Any) -> None:
        step_shape = (input_shape[0], *input_shape[2:])
        if not isinstance(self.cell, StackedRNNCells):
            self._width = build_cell(self.cell, step_shape)
        elif not self.cell.built:
            self.cell.build(step_shape)
            self.cell.built = True

    def cells(self, w: Weights) -> list[tuple[AnyCell, Any]]:
        """Returns the cell, or those of the stack."""
        if not isinstance(self.cell, StackedRNNCells):
            return [(_run(self.cell, self._width), w["cell"])]
        named = zip(self.cell.sublayers.items(), self.cell.widths, strict=True)
        return [(_run(cell, width), w["cell"][name]) for (name, cell), width in named]

    def watches(self, context: CallContext) -> Watches | None:
        """Watches that add activity regularisation of the cells: of the output and each state, at each timestep."""
        if context.losses is None or all(layer.activity_regularizer is None for layer in self.cell.walk_layers()):
            return None
        if not isinstance(self.cell, StackedRNNCells):
            return [_penalty(context, self.cell)]
        return [_penalty(context, cell, self.cell) for cell in self.cell.cells]

    def rehearsals(self, context: CallContext) -> list[Watches]:
        """Keras also counts penalties of timesteps that it runs to create a stack's dropout masks or infer shapes."""
        watches = self.watches(context)
        if watches is None:
            return []
        drawing: list[Watches] = []
        if isinstance(self.cell, StackedRNNCells):
            drawing.append([_penalty(context, cell) for cell in self.cell.cells])
        return drawing if self.unroll else [*drawing, watches]

    def output_structure(self, outputs: list[Any]) -> Structure:
        """Nests the states of a stack as Keras does."""
        if not isinstance(self.cell, StackedRNNCells) or not self.return_state:
            return super().output_structure(outputs)
        nested, rest = [outputs[0]], outputs[1:]
        for cell in self.cell.cells:
            count = len(_run(cell, 0).state_sizes)
            nested.append(rest[:count] if count > 1 else rest[0])
            rest = rest[count:]
        return nested


LAYERS: dict[str, type[Layer]] = {
    "GRU": GRU,
    "GRUCell": GRUCell,
    "LSTM": LSTM,
    "LSTMCell": LSTMCell,
    "RNN": RNN,
    "SimpleRNN": SimpleRNN,
    "SimpleRNNCell": SimpleRNNCell,
    "StackedRNNCells": StackedRNNCells,
}

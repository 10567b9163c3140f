"""Recurrent cells: one timestep, and loops over all of them (keras.layers.SimpleRNNCell, LSTMCell, GRUCell)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from layergraph.config.options import anything, boolean, fraction, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import is_recorded_for_file
from layergraph.functional.invocation import Invocation
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.shape_inference import infer
from layergraph.functional.tensor import History, Tensor
from layergraph.functional.weights import Weights
from layergraph.initializers import Initializer, initializer
from layergraph.layers.activation_functions import Activation, relu, sigmoid, tanh
from layergraph.layers.activations import activation
from layergraph.layers.biases import product
from layergraph.layers.regularization import dropout_mask
from layergraph.layers.rnn import kernels as recurrent_kernels
from layergraph.layers.rnn.kernels import Scanned
from layergraph.layers.rnn.recorded_loop import recorded_loop
from layergraph.regularizers import regularizer

States: TypeAlias = Sequence[torch.Tensor]

#: One timestep: (its index, states before) -> states after, the first of which is the output.
Step: TypeAlias = Callable[[int, States], list[torch.Tensor]]

#: Called with the output and the states after each timestep.
Watch: TypeAlias = Callable[[torch.Tensor, States], None]


class Cell(Layer):
    """Weights and computation of a recurrent layer, shared by the layer and its cell.

    Timesteps are indexed in processing order: reversing them for `go_backwards` is up to the caller.
    """

    units: int = option(positive_int)
    activation: Activation = option(activation, default="tanh")
    use_bias: bool = option(boolean, default=True, kw_only=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform", kw_only=True)
    recurrent_initializer: Any = option(initializer, default="orthogonal", kw_only=True)
    bias_initializer: Any = option(initializer, default="zeros", kw_only=True)
    kernel_regularizer: Any = option(regularizer, default=None, kw_only=True)
    recurrent_regularizer: Any = option(regularizer, default=None, kw_only=True)
    bias_regularizer: Any = option(regularizer, default=None, kw_only=True)
    kernel_constraint: Any = option(constraint, default=None, kw_only=True)
    recurrent_constraint: Any = option(constraint, default=None, kw_only=True)
    bias_constraint: Any = option(constraint, default=None, kw_only=True)
    dropout: float = option(fraction, default=0.0, kw_only=True)
    recurrent_dropout: float = option(fraction, default=0.0, kw_only=True)
    seed: Any = option(anything, default=None, kw_only=True)

    #: Number of gates, whose matrices are concatenated in the kernels.
    gates = 1

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """Number of features of each state. The first is the output's."""
        return (self.units,)

    @property
    def state_size(self) -> int | list[int]:
        """Number of features of each state, as Keras's cells have it."""
        sizes = list(self.state_sizes)
        return sizes if len(sizes) > 1 else sizes[0]

    @property
    def output_size(self) -> int:
        """Number of features of the output."""
        return self.state_sizes[0]

    def initial_states(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The states before the first of the timesteps x: zeros."""
        return zero_states(x, self.state_sizes, self.compute_dtype)

    def build(self, input_shape: Any, *others: Any) -> None:
        width = self.gates * self.units
        # torch's loops take the transposed kernels.
        self.add_weight_by_options("kernel", (input_shape[-1], width), memory_order=(1, 0))
        self.add_weight_by_options("recurrent_kernel", (self.units, width), options="recurrent", memory_order=(1, 0))
        if self.use_bias:
            self.add_weight_by_options("bias", self.bias_shape(), initializer=self.first_bias())
        for chosen in (self.activation, getattr(self, "recurrent_activation", None)):
            if isinstance(chosen, Layer):
                self._check_activation(chosen)

    def _check_activation(self, layer: Layer) -> None:
        """Raises GraphError if an activation layer changes the shape: shape inference doesn't run the timesteps."""
        gate = Tensor((None, self.units), self.compute_dtype, History(self, 0, 0))
        layer.build_for((gate,))
        shapes = [output.shape for output in flatten(infer(Invocation(layer, (gate,), {}, None)))]
        if shapes != [gate.shape]:
            raise GraphError(
                f"layer '{self.name}' ({type(self).__name__}): activation layer '{layer.name}' "
                f"({type(layer).__name__}) returns shape {shapes[0]}, expected {gate.shape}"
            )

    def bias_shape(self) -> tuple[int, ...]:
        """Shape of the bias."""
        return (self.gates * self.units,)

    def first_bias(self) -> Any:
        """Initializer of the bias."""
        return self.bias_initializer

    def scan(
        self,
        context: CallContext,
        w: Weights,
        x: torch.Tensor,
        states: States,
        mask: torch.Tensor | None,
        *,
        need_states: bool,
        watch: Watch | None = None,
    ) -> Scanned:
        """Returns outputs (rows, timesteps, units) for x (rows, timesteps, features), and the final states.

        mask          (rows, timesteps), False at timesteps to skip: states stay, and the last output is repeated
        need_states   whether the caller uses the states
        watch         called with the output and the states after each timestep, before masking
        """
        x = x.to(w.kernel.dtype)
        if context.training and self.dropout and not self.recurrent_dropout:
            x = x * dropout_mask(context, x[:, 0], self.dropout)[:, None]
        if x.is_meta:
            return self._shapes(w, x, states)
        # Keras broadcasts a single row of states; torch's loops would read past its end.
        rows = x.shape[0]
        states = [state if state.shape[0] == rows else state.expand(rows, -1) for state in states]
        if is_recorded_for_file() and not context.training and watch is None:
            return self._recorded(context, w, x, states, mask, need_states=need_states)
        if watch is None and not (context.training and self.recurrent_dropout) and recurrent_kernels.fits(x):
            done = self.fused(w, x, states, mask, need_states=need_states)
            if done is not None:
                return done
        step = self.step(context, w, x)
        return loop(step if watch is None else _watched(step, watch), x, states, mask)

    def _recorded(
        self,
        context: CallContext,
        w: Weights,
        x: torch.Tensor,
        states: States,
        mask: torch.Tensor | None,
        *,
        need_states: bool,
    ) -> Scanned:
        """Computes `scan` in a way that can be recorded for any number of timesteps."""
        # torch.export takes the number of timesteps in torch's loops as a constant, and nothing records packed rows.
        unknown = isinstance(x.shape[1], torch.SymInt)
        if not unknown and not (mask is not None and need_states) and recurrent_kernels.fits(x):
            done = self.fused(w, x, states, mask, need_states=need_states)
            if done is not None:
                return done

        def take(one: torch.Tensor, now: States) -> list[torch.Tensor]:
            return self.step(context, w, one[:, None])(0, now)

        return recorded_loop(take, x, states, mask, self.state_sizes)

    def fused(
        self, w: Weights, x: torch.Tensor, states: States, mask: torch.Tensor | None, *, need_states: bool
    ) -> Scanned | None:
        """Computes `scan` by one of torch's fused loops; None if none supports the options."""
        return None

    def step(self, context: CallContext, w: Weights, x: torch.Tensor) -> Step:
        """Returns the step function for x (rows, timesteps, features). What doesn't depend on states is precomputed."""
        raise NotImplementedError

    def projected(
        self, context: CallContext, w: Weights, x: torch.Tensor, bias: torch.Tensor | None
    ) -> Sequence[torch.Tensor]:
        """Computes x @ kernel + bias of all timesteps, in one product: (rows, gates * units) each."""
        x = x.transpose(0, 1)
        if context.training and self.dropout and self.recurrent_dropout:
            # With recurrent dropout, Keras uses a different input mask for each gate.
            parts = [
                (x * dropout_mask(context, x[0], self.dropout)) @ kernel
                for kernel in w.kernel.chunk(self.gates, dim=-1)
            ]
            y = torch.cat(parts, -1)
            return (y if bias is None else y + bias).unbind(0)
        return product(x, w.kernel, bias).unbind(0)

    def recurrent_masks(self, context: CallContext, x: torch.Tensor) -> list[torch.Tensor] | None:
        """Returns the dropout mask of each gate's state, shared by all timesteps; None without recurrent dropout."""
        if not (context.training and self.recurrent_dropout):
            return None
        like = x.new_empty((x.shape[0], self.units))
        return [dropout_mask(context, like, self.recurrent_dropout) for _ in range(self.gates)]

    def _shapes(self, w: Weights, x: torch.Tensor, states: States) -> Scanned:
        """Infers shapes on `meta` without running the timesteps: thousands of them take seconds."""
        if x.shape[2] != w.kernel.shape[0]:
            raise GraphError(f"got {x.shape[2]} features, expected {w.kernel.shape[0]}")
        return x.new_empty((x.shape[0], x.shape[1], self.state_sizes[0])), list(states)


def _watched(step: Step, watch: Watch) -> Step:
    def take(t: int, states: States) -> list[torch.Tensor]:
        after = step(t, states)
        watch(after[0], after)
        return after

    return take


def zero_states(x: torch.Tensor, sizes: Sequence[int], dtype: str) -> list[torch.Tensor]:
    """States of zeros, of these numbers of features, for the rows of x."""
    return [x.new_zeros((x.shape[0], size), dtype=torch_dtype(dtype)) for size in sizes]


def loop(step: Step, x: torch.Tensor, states: States, mask: torch.Tensor | None) -> Scanned:
    """Runs the timesteps one by one. `x` provides the number of rows and timesteps, and the dtype."""
    steps = x.shape[1]
    states = list(states)
    output = torch.zeros_like(states[0])
    outputs = []
    counts = None if mask is None else mask.t()[:, :, None].unbind(0)
    for t in range(steps):
        after = step(t, states)
        if counts is None:
            output, states = after[0], after
        else:
            output = torch.where(counts[t], after[0], output)
            states = [torch.where(counts[t], new, old) for new, old in zip(after, states, strict=True)]
        outputs.append(output)
    return torch.stack(outputs, 1) if outputs else x.new_zeros((x.shape[0], 0, output.shape[1])), states


def _recurrent(h: torch.Tensor, kernel: torch.Tensor, masks: list[torch.Tensor] | None) -> torch.Tensor:
    """Computes h @ kernel, with a separate mask on h for each gate."""
    if masks is None:
        return h @ kernel
    return torch.cat([(h * mask) @ part for mask, part in zip(masks, kernel.chunk(len(masks), -1), strict=True)], -1)


class SimpleCell(Cell):
    """h = activation(x @ kernel + h @ recurrent_kernel + bias)."""

    def fused(
        self, w: Weights, x: torch.Tensor, states: States, mask: torch.Tensor | None, *, need_states: bool
    ) -> Scanned | None:
        """Uses torch's loop, for tanh and relu."""
        if self.activation not in (tanh, relu):
            return None
        bias = w.bias if self.use_bias else None
        loop = recurrent_kernels.simple_rnn(w.kernel, w.recurrent_kernel, bias, rectified=self.activation is relu)
        return loop(x, states) if mask is None else recurrent_kernels.masked(loop, x, states, mask)

    def step(self, context: CallContext, w: Weights, x: torch.Tensor) -> Step:
        """Step function of the formula above."""
        inputs = self.projected(context, w, x, w.bias if self.use_bias else None)
        masks = self.recurrent_masks(context, x)

        def take(t: int, states: States) -> list[torch.Tensor]:
            # An activation layer may return another dtype.
            return [self.activation(inputs[t] + _recurrent(states[0], w.recurrent_kernel, masks)).to(x.dtype)]

        return take


class GatedCell(Cell):
    """A cell with gates, which have a separate activation."""

    recurrent_activation: Activation = option(activation, default="sigmoid")

    @property
    def uses_standard_activations(self) -> bool:
        """Whether the activations are those of torch's fused loops."""
        return self.activation is tanh and self.recurrent_activation is sigmoid


class LstmCell(GatedCell):
    """Long short-term memory (Hochreiter and Schmidhuber, 1997), with gates i, f, o and candidate g:

    c = f * c + i * g, h = o * activation(c). Kernels concatenate i, f, g, o.
    """

    unit_forget_bias: bool = option(boolean, default=True, kw_only=True)

    gates = 4

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """h and c."""
        return (self.units, self.units)

    def first_bias(self) -> Any:
        """Initializer of the bias: ones for the forget gate with `unit_forget_bias`."""
        return ForgetBias(self.bias_initializer) if self.unit_forget_bias else self.bias_initializer

    def fused(
        self, w: Weights, x: torch.Tensor, states: States, mask: torch.Tensor | None, *, need_states: bool
    ) -> Scanned | None:
        """Uses torch's loop, for tanh and sigmoid."""
        if not self.uses_standard_activations:
            return None
        loop, first_steps = recurrent_kernels.lstm(w.kernel, w.recurrent_kernel, w.bias if self.use_bias else None)
        if mask is None:
            return loop(x, states)
        return recurrent_kernels.masked(loop, x, states, mask, first_steps if need_states else None)

    def step(self, context: CallContext, w: Weights, x: torch.Tensor) -> Step:
        """Step function of the formula above."""
        inputs = self.projected(context, w, x, w.bias if self.use_bias else None)
        masks = self.recurrent_masks(context, x)
        gate, active = self.recurrent_activation, self.activation

        def take(t: int, states: States) -> list[torch.Tensor]:
            h, c = states
            i, f, g, o = (inputs[t] + _recurrent(h, w.recurrent_kernel, masks)).chunk(4, -1)
            c = gate(f) * c + gate(i) * active(g)
            return [gate(o) * active(c), c]

        return take


class ForgetBias:
    """Initial bias of an LSTM: `initializer`, but ones for the forget gate (Jozefowicz et al., 2015)."""

    def __init__(self, initializer: Initializer) -> None:
        self._initializer = initializer

    def __call__(self, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        units = shape[0] // 4
        first, rest = self._initializer((units,), dtype), self._initializer((2 * units,), dtype)
        return torch.cat([first, torch.ones(units, dtype=dtype), rest])


class GruCell(GatedCell):
    """Gated recurrent unit (Cho et al., 2014), with gates z (update) and r (reset), and candidate g:

    h = z * h + (1 - z) * g. Kernels concatenate z, r, g.

    reset_after   whether r multiplies h @ recurrent_kernel + bias (as in cuDNN, with two biases) rather than h
    """

    reset_after: bool = option(boolean, default=True, kw_only=True)

    gates = 3

    def bias_shape(self) -> tuple[int, ...]:
        """One bias for inputs and, with `reset_after`, one for states."""
        return (2, 3 * self.units) if self.reset_after else (3 * self.units,)

    def fused(
        self, w: Weights, x: torch.Tensor, states: States, mask: torch.Tensor | None, *, need_states: bool
    ) -> Scanned | None:
        """Uses torch's loop, for tanh, sigmoid and `reset_after`."""
        if not (self.uses_standard_activations and self.reset_after):
            return None
        loop = recurrent_kernels.gru(w.kernel, w.recurrent_kernel, w.bias if self.use_bias else None)
        return loop(x, states) if mask is None else recurrent_kernels.masked(loop, x, states, mask)

    def step(self, context: CallContext, w: Weights, x: torch.Tensor) -> Step:
        """Step function of the formula above."""
        bias = recurrent_bias = None
        if self.use_bias:
            bias, recurrent_bias = w.bias.unbind(0) if self.reset_after else (w.bias, None)
        inputs = self.projected(context, w, x, bias)
        masks = self.recurrent_masks(context, x)
        gate, units = self.recurrent_activation, self.units

        def after(t: int, states: States) -> list[torch.Tensor]:
            (h,) = states
            inner = _recurrent(h, w.recurrent_kernel, masks)
            if recurrent_bias is not None:
                inner = inner + recurrent_bias
            z = gate(inputs[t][:, :units] + inner[:, :units])
            r = gate(inputs[t][:, units : 2 * units] + inner[:, units : 2 * units])
            return [_mixed(z, h, self.activation(inputs[t][:, 2 * units :] + r * inner[:, 2 * units :]))]

        def before(t: int, states: States) -> list[torch.Tensor]:
            (h,) = states
            gates, candidate = w.recurrent_kernel[:, : 2 * units], w.recurrent_kernel[:, 2 * units :]
            zr = inputs[t][:, : 2 * units] + _recurrent(h, gates, masks and masks[:2])
            z, r = gate(zr[:, :units]), gate(zr[:, units:])
            kept = h if masks is None else h * masks[2]
            return [_mixed(z, h, self.activation(inputs[t][:, 2 * units :] + (r * kept) @ candidate))]

        return after if self.reset_after else before


def _mixed(z: torch.Tensor, h: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    return z * h + (1 - z) * candidate

"""Convolutional LSTMs (keras.layers.ConvLSTM1D, ConvLSTM2D, ConvLSTM3D)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from layergraph.config.options import anything, boolean, fraction, option, positive_int
from layergraph.constraints import constraint
from layergraph.errors import ConfigError, GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.exporting import is_recorded_for_file
from layergraph.functional.layer import Layer
from layergraph.functional.nest import flatten
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activation
from layergraph.layers.activations import activation as any_activation
from layergraph.layers.convolutional.convolution import WindowedConvolution
from layergraph.layers.regularization import dropout_mask
from layergraph.layers.rnn.cells import ForgetBias
from layergraph.layers.rnn.recorded_loop import recorded_loop
from layergraph.layers.rnn.recurrent import Recurrent
from layergraph.layers.spatial import data_format, padding, same_padding
from layergraph.regularizers import regularizer

_GATES = 4


class _ConvLstm(WindowedConvolution, Recurrent):
    """Convolutional LSTM (Shi et al., 2015): c = f * c + i * g, h = o * activation(c), where the gates i, f, o and the
    candidate g are convolutions of the input (with strides, padding and dilation) and of h (with 'same' padding).

    Input (rows, timesteps, *spatial, channels), output (rows, *spatial, filters), or with `return_sequences`
    (rows, timesteps, *spatial, filters); with data_format='channels_first' channels and filters precede the spatial
    axes. Kernels are (*kernel_size, channels, 4 * filters) and (*kernel_size, filters, 4 * filters).
    """

    filters: int = option(positive_int)
    kernel_size: Any = option(anything)
    strides: Any = option(anything, default=1)
    padding: str = option(padding, default="valid")
    data_format: str = option(data_format, default=None)
    dilation_rate: Any = option(anything, default=1)
    activation: Activation = option(activation, default="tanh")
    recurrent_activation: Activation = option(any_activation, default="sigmoid")
    use_bias: bool = option(boolean, default=True)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    recurrent_initializer: Any = option(initializer, default="orthogonal")
    bias_initializer: Any = option(initializer, default="zeros")
    unit_forget_bias: bool = option(boolean, default=True)
    kernel_regularizer: Any = option(regularizer, default=None)
    recurrent_regularizer: Any = option(regularizer, default=None)
    bias_regularizer: Any = option(regularizer, default=None)
    kernel_constraint: Any = option(constraint, default=None)
    recurrent_constraint: Any = option(constraint, default=None)
    bias_constraint: Any = option(constraint, default=None)
    dropout: float = option(fraction, default=0.0)
    recurrent_dropout: float = option(fraction, default=0.0)
    seed: Any = option(anything, default=None)

    storage = replace(Recurrent.storage, path=("cell",), scope="conv_lstm_cell")

    def setup(self) -> None:
        """Expands sizes to one value per axis. Raises ConfigError for strides with dilation, and for `time_major`."""
        super().setup()
        if self.time_major:
            raise ConfigError(f"{type(self).__name__}: option 'time_major' is true, expected false")
        self.refuse_strided_dilation()

    def build(self, input_shape: Any, *others: Any) -> None:
        step_shape = (input_shape[0], *input_shape[2:])
        channels = self.channels_of(step_shape)
        width = _GATES * self.filters
        self.add_weight_by_options("kernel", (*self.kernel_size, channels, width))
        self.add_weight_by_options("recurrent_kernel", (*self.kernel_size, self.filters, width), options="recurrent")
        if self.use_bias:
            self.add_weight_by_options(
                "bias",
                (width,),
                initializer=ForgetBias(self.bias_initializer) if self.unit_forget_bias else self.bias_initializer,
            )

    def forward(
        self,
        context: CallContext,
        w: Weights,
        sequences: torch.Tensor,
        initial_state: Any = None,
        mask: torch.Tensor | None = None,
        sequences_mask: torch.Tensor | None = None,
    ) -> Any:
        """Returns outputs and, if requested, the states h and c. Raises GraphError for incompatible shapes."""
        if sequences.ndim != self.rank + 3:
            raise GraphError(
                f"got shape {tuple(sequences.shape)}, expected (rows, timesteps and {self.rank + 1} more axes)"
            )
        if mask is None and self.mask_rule == "keras2":
            mask = sequences_mask
        mask = mask[0] if isinstance(mask, (list, tuple)) and mask else mask
        if mask is not None and not 2 <= mask.ndim <= self.rank + 2:
            raise GraphError(f"got a mask of shape {tuple(mask.shape)}, expected (rows, timesteps) or more axes")
        inputs = self._inputs(context, w, sequences.to(w.kernel.dtype))
        # The gates are (rows, timesteps, *spatial, filters * 4) here; states lack the timesteps.
        states = self._first_states(inputs, self.starting_states(context, inputs.shape[0], initial_state))
        outputs, states = self._scan(context, w, inputs, states, mask)
        self.keep_states(context, states)
        if mask is not None and self.zero_output_for_mask:
            order = mask.flip(1) if self.go_backwards else mask
            outputs = torch.where(_over(order.to(torch.bool), outputs), outputs, 0)
        dtype = torch_dtype(self.compute_dtype)
        output = (outputs if self.return_sequences else outputs[:, -1]).to(dtype)
        return [output, *(state.to(dtype) for state in states)] if self.return_state else output

    def _inputs(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the inputs' part of the gates, for all timesteps at once: they are treated as rows."""
        rows, steps = x.shape[:2]
        flat = x.reshape(rows * steps, *x.shape[2:])
        bias = w.bias if self.use_bias else None
        if context.training and self.dropout:
            # The same mask at all timesteps, a different one for each gate.
            masks = [dropout_mask(context, x[:, 0], self.dropout)[:, None] for _ in range(_GATES)]
            kernels = w.kernel.chunk(_GATES, -1)
            biases = [None] * _GATES if bias is None else bias.chunk(_GATES)
            parts = [
                self.convolve((x * mask).reshape(flat.shape), kernel, part, 1)
                for mask, kernel, part in zip(masks, kernels, biases, strict=True)
            ]
            gates = torch.cat(parts, self._channels)
        else:
            gates = self.convolve(flat, w.kernel, bias, 1)
        return gates.reshape(rows, steps, *gates.shape[1:])

    @property
    def _channels(self) -> int:
        return 1 if self.channels_first else -1

    def _first_states(self, inputs: torch.Tensor, initial_state: Any) -> list[torch.Tensor]:
        gate = inputs[:, 0].chunk(_GATES, self._channels)[0]
        given = [state.to(inputs.dtype) for state in flatten(initial_state) if state is not None]
        if not given:
            return [torch.zeros_like(gate), torch.zeros_like(gate)]
        if len(given) != 2 or any(state.shape[1:] != gate.shape[1:] for state in given):
            shapes = [tuple(state.shape) for state in given]
            raise GraphError(f"got initial states of shapes {shapes}, expected two of {tuple(gate.shape)}")
        return given

    def _scan(
        self,
        context: CallContext,
        w: Weights,
        inputs: torch.Tensor,
        states: list[torch.Tensor],
        mask: torch.Tensor | None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Returns the outputs of all timesteps, in processing order, and the states after the last."""
        if is_recorded_for_file() and not context.training:
            x = inputs.flip(1) if self.go_backwards else inputs
            ordered = mask.flip(1) if mask is not None and self.go_backwards else mask
            kept = None if ordered is None else ordered.to(torch.bool)

            def take(one: torch.Tensor, now: Sequence[torch.Tensor]) -> list[torch.Tensor]:
                return self._step(w, one, now, None)

            return recorded_loop(take, x, states, kept, [self.filters] * len(states), self._channels)
        steps = range(inputs.shape[1])
        if inputs.is_meta:
            # All timesteps have the same shape; thousands of them on `meta` would take seconds.
            after = self._step(w, inputs[:, 0], states, None)
            return after[0].unsqueeze(1).expand(-1, len(steps), *after[0].shape[1:]), after
        dropped = None
        if context.training and self.recurrent_dropout:
            dropped = [dropout_mask(context, states[0], self.recurrent_dropout) for _ in range(_GATES)]
        output = torch.zeros_like(states[0])
        outputs = []
        for t in reversed(steps) if self.go_backwards else steps:
            after = self._step(w, inputs[:, t], states, dropped)
            if mask is None:
                output, states = after[0], after
            else:
                counts = _over(mask[:, t].to(torch.bool), output)
                output = torch.where(counts, after[0], output)
                states = [torch.where(counts, new, old) for new, old in zip(after, states, strict=True)]
            outputs.append(output)
        return torch.stack(outputs, 1), states

    def _step(
        self, w: Weights, inputs: torch.Tensor, states: Sequence[torch.Tensor], dropped: list[torch.Tensor] | None
    ) -> list[torch.Tensor]:
        h, c = states
        if dropped is None:
            inner = self._same(h, w.recurrent_kernel)
        else:
            kernels = w.recurrent_kernel.chunk(_GATES, -1)
            parts = [self._same(h * mask, kernel) for mask, kernel in zip(dropped, kernels, strict=True)]
            inner = torch.cat(parts, self._channels)
        gate, active = self.recurrent_activation, self.activation
        i, f, g, o = (inputs + inner).chunk(_GATES, self._channels)
        c = gate(f) * c + gate(i) * active(g)
        return [gate(o) * active(c), c]

    def _same(self, h: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        """Convolves a state with 'same' padding, which preserves its lengths."""
        pads = [same_padding(n, size, 1) for n, size in zip(self.lengths(h), self.kernel_size, strict=True)]
        return self.plain_convolution(self.padded(h, pads), kernel)


def _over(counts: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Appends axes of length 1 to booleans for the first axes of `like`."""
    return counts.reshape(*counts.shape, *[1] * (like.ndim - counts.ndim))


class ConvLSTM1D(_ConvLstm):
    """Convolutional LSTM over one spatial axis (keras.layers.ConvLSTM1D)."""

    rank = 1


class ConvLSTM2D(_ConvLstm):
    """Convolutional LSTM over images (keras.layers.ConvLSTM2D)."""

    rank = 2


class ConvLSTM3D(_ConvLstm):
    """Convolutional LSTM over volumes (keras.layers.ConvLSTM3D)."""

    rank = 3


LAYERS: dict[str, type[Layer]] = {"ConvLSTM1D": ConvLSTM1D, "ConvLSTM2D": ConvLSTM2D, "ConvLSTM3D": ConvLSTM3D}

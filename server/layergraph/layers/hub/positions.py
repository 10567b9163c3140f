"""Encodings of positions (keras_hub.layers.PositionEmbedding, SinePositionEncoding)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import Expected, number, option, positive_int
from layergraph.errors import DataError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.hub.ranges import in_range


def positive_number(value: Any) -> float:
    """Validator: a finite number above zero."""
    result = number(value)
    if result <= 0:
        raise Expected("a number above 0")
    return int(value) if isinstance(value, int) else result


class PositionEmbedding(Layer):
    """A trainable vector for each position (keras_hub.layers.PositionEmbedding).

    Inputs (rows, timesteps, features), of which only the shape is used; outputs of the same shape.

    sequence_length   maximum number of timesteps
    """

    sequence_length: int = option(positive_int)
    initializer: Any = option(initializer, default="glorot_uniform")

    def build(self, inputs_shape: Any, *rest: Any) -> None:
        """Creates the embeddings (sequence_length, features)."""
        self.add_weight("embeddings", (self.sequence_length, inputs_shape[-1]), self.initializer)

    def forward(
        self, context: CallContext, w: Weights, inputs: torch.Tensor, start_index: Any = 0, positions: Any = None
    ) -> torch.Tensor:
        """Returns the vectors of the positions from `start_index` on, or of `positions` (T,) or (rows, T).

        Raises DataError for positions outside of the table.
        """
        if has_unknown_steps(context, inputs):
            empty: torch.Tensor = w.embeddings.new_empty(inputs.shape)
            return empty
        vectors: torch.Tensor
        if positions is not None:
            places = torch.as_tensor(positions, device=inputs.device).to(torch.int64)
            vectors = w.embeddings[self._known(places)]
        elif isinstance(start_index, torch.Tensor):
            places = torch.arange(inputs.shape[-2], device=inputs.device) + start_index.to(torch.int64).reshape(())
            vectors = w.embeddings[self._known(places)]
        else:
            end = start_index + inputs.shape[-2]
            if start_index < 0 or end > self.sequence_length:
                raise DataError(
                    f"layer '{self.name}' (PositionEmbedding): got {end} timesteps, expected at most "
                    f"{self.sequence_length}"
                )
            vectors = w.embeddings[start_index:end]
        return vectors.expand(inputs.shape)

    def _known(self, places: torch.Tensor) -> torch.Tensor:
        return in_range(places, self.sequence_length, f"layer '{self.name}' (PositionEmbedding): got position")


class SinePositionEncoding(Layer):
    """Sines and cosines of the position, by turns along the features, with growing wavelengths (Vaswani et al., 2017;
    keras_hub.layers.SinePositionEncoding).

    Inputs (rows, timesteps, features), of which only the shape is used; outputs of the same shape.
    """

    max_wavelength: float = option(positive_number, default=10000)

    def forward(
        self, context: CallContext, w: Weights, inputs: torch.Tensor, start_index: Any = 0, positions: Any = None
    ) -> torch.Tensor:
        """Returns the encodings of the positions from `start_index` on, or of `positions` (T,) or (rows, T)."""
        dtype, device = torch_dtype(self.compute_dtype), inputs.device
        features = torch.arange(inputs.shape[-1], device=device)
        if positions is None or has_unknown_steps(context, inputs):
            positions = (torch.arange(inputs.shape[-2], device=device) + start_index).to(dtype)
        positions = torch.as_tensor(positions, device=device)
        frequency = torch.tensor(1 / self.max_wavelength, dtype=dtype, device=device)
        exponents = (features - features % 2).to(dtype) / torch.tensor(inputs.shape[-1], dtype=dtype, device=device)
        angles = positions.to(dtype).unsqueeze(-1) * torch.pow(frequency, exponents)
        encodings = torch.where(features % 2 == 0, torch.sin(angles), torch.cos(angles))
        return encodings.expand(inputs.shape)


def has_unknown_steps(context: CallContext, inputs: torch.Tensor, axis: int = -2) -> bool:
    """Whether this is shape inference with an unknown number of timesteps, which may exceed a maximum, or differ from
    the number of positions.
    """
    return context.symbolic_dims is not None and context.symbolic_dims.is_unknown(inputs, axis)


LAYERS: dict[str, type[Layer]] = {
    "PositionEmbedding": PositionEmbedding,
    "SinePositionEncoding": SinePositionEncoding,
}

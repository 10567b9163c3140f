"""Rotary positions (keras_hub.layers.RotaryEmbedding)."""

from __future__ import annotations

import math
from typing import Any

import torch

from layergraph.config.options import boolean, integer, option, optional, positive_int, text
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.hub.positions import has_unknown_steps, positive_number


class RotaryEmbedding(Layer):
    """Rotates pairs of features by angles that grow with the position (Su et al., 2021;
    keras_hub.layers.RotaryEmbedding).

    Features i and i + n/2 are a pair. Outputs have the shape of the inputs.

    scaling_factor    factor by which positions are compressed, in the way of `rope_type`
    rope_type         "linear", "dynamic" or "yarn" (Peng et al., 2023)
    beta_fast, beta_slow, original_max_position_embeddings, truncate   options of "yarn": between these numbers of
                      rotations in the original context, frequencies go over from unscaled to scaled
    sequence_axis, feature_axis   axes of the positions and of the features
    denominator_dim   number of features in the exponent of the wavelengths, by default that of the inputs
    """

    max_wavelength: float = option(positive_number, default=10000)
    scaling_factor: float = option(positive_number, default=1.0)
    rope_type: str = option(text, default="linear")
    beta_fast: float = option(positive_number, default=32.0)
    beta_slow: float = option(positive_number, default=1.0)
    original_max_position_embeddings: int = option(positive_int, default=4096)
    truncate: bool = option(boolean, default=True)
    sequence_axis: int = option(integer, default=1)
    feature_axis: int = option(integer, default=-1)
    denominator_dim: int | None = option(optional(positive_int), default=None)

    def forward(
        self, context: CallContext, w: Weights, inputs: torch.Tensor, start_index: Any = 0, positions: Any = None
    ) -> torch.Tensor:
        """Rotates the inputs at the positions from `start_index` on, or at `positions` (T,) or (rows, T).

        Raises GraphError if the axes don't exist or the number of features is odd.
        """
        sequence, features = self._axes(inputs.ndim)
        x = torch.moveaxis(inputs, (features, sequence), (-1, 1))
        device = x.device
        if positions is None or has_unknown_steps(context, x, 1):
            positions = torch.arange(x.shape[1], dtype=torch.float32, device=device) + start_index
        places = torch.as_tensor(positions, device=device).to(torch.float32)
        angles = (places if places.ndim > 1 else places[None]).unsqueeze(-1) * self._frequencies(x.shape[-1], device)
        angles = torch.cat((angles, angles), -1)
        angles = angles.reshape(*angles.shape[:2], *[1] * (x.ndim - 3), angles.shape[-1])
        dtype = torch_dtype(self.compute_dtype)
        cosine, sine = torch.cos(angles).to(dtype), torch.sin(angles).to(dtype)
        if self.rope_type == "yarn":
            temperature = 0.1 * torch.log(torch.tensor(self.scaling_factor, dtype=dtype, device=device)) + 1.0
            cosine, sine = cosine * temperature, sine * temperature
        first, second = x.chunk(2, -1)
        turned = x * cosine + torch.cat((-second, first), -1) * sine
        return torch.moveaxis(turned, (-1, 1), (features, sequence))

    def _axes(self, rank: int) -> tuple[int, int]:
        axes = [axis + rank if axis < 0 else axis for axis in (self.sequence_axis, self.feature_axis)]
        if not all(0 <= axis < rank for axis in axes) or axes[0] == axes[1]:
            raise GraphError(
                f"sequence_axis is {self.sequence_axis} and feature_axis {self.feature_axis}, expected two axes of an "
                f"input of rank {rank}"
            )
        return axes[0], axes[1]

    def _frequencies(self, features: int, device: torch.device) -> torch.Tensor:
        """Radians per position of each pair of features."""
        if features % 2:
            raise GraphError(f"got {features} features, expected an even number")
        even = torch.arange(0, features, 2, dtype=torch.float32, device=device)
        base = torch.tensor(self.max_wavelength, dtype=torch.float32, device=device)
        if self.rope_type == "yarn":
            return self._yarn_frequencies(torch.pow(base, even / features), features)
        plain: torch.Tensor = torch.pow(base, -even / (self.denominator_dim or features))
        if self.rope_type == "linear":
            plain = plain / self.scaling_factor
        if self.rope_type == "dynamic":
            plain = plain / self.scaling_factor ** (features / max(1, features - 2))
        return plain

    def _yarn_frequencies(self, wavelengths: torch.Tensor, features: int) -> torch.Tensor:
        """Scaled frequencies for long wavelengths, unscaled ones for short ones, and a linear ramp between them."""

        def pair_with(rotations: float) -> float:
            turns = self.original_max_position_embeddings / (rotations * 2 * math.pi)
            return features * math.log(turns) / (2 * math.log(self.max_wavelength))

        low, high = pair_with(self.beta_fast), pair_with(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, features - 1)
        pairs = torch.arange(features // 2, dtype=torch.float32, device=wavelengths.device)
        scaled = ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)
        return scaled / (self.scaling_factor * wavelengths) + (1 - scaled) / wavelengths


LAYERS: dict[str, type[Layer]] = {"RotaryEmbedding": RotaryEmbedding}

"""Biases of attention by distance (keras_hub.layers.AlibiBias)."""

from __future__ import annotations

import torch

from layergraph.config.options import option
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.layers.hub.positions import positive_number


class AlibiBias(Layer):
    """Adds to attention scores (rows, heads, T, S) a bias that falls with the distance of the key from the last one,
    with a slope for each head (Press et al., 2021; keras_hub.layers.AlibiBias).

    alibi_bias_max   the last slope of a power of two of heads is 2**-alibi_bias_max
    """

    alibi_bias_max: float = option(positive_number, default=8)

    def forward(self, context: CallContext, w: Weights, attention_scores: torch.Tensor) -> torch.Tensor:
        """Returns the scores with the biases. Raises GraphError for another rank."""
        if attention_scores.ndim != 4:
            shape = tuple(attention_scores.shape)
            raise GraphError(f"got scores of shape {shape}, expected (rows, heads, queries, keys)")
        # A tensor while a graph is recorded.
        heads, keys = int(attention_scores.shape[1]), attention_scores.shape[3]
        dtype, device = torch_dtype(self.compute_dtype), attention_scores.device
        slopes = torch.tensor(self._slopes(heads), dtype=dtype, device=device)
        distances = torch.arange(1 - keys, 1, device=device).to(dtype)
        return attention_scores + slopes.reshape(-1, 1, 1) * distances

    def _slopes(self, heads: int) -> list[float]:
        """Powers of 2 with equal ratios for a power of two of heads; for the others, powers between those."""
        whole = 1 << (heads.bit_length() - 1)
        first = [2 ** (-self.alibi_bias_max * (i + 1) / whole) for i in range(whole)]
        return first + [2 ** (-self.alibi_bias_max * (i + 0.5) / whole) for i in range(heads - whole)]


LAYERS: dict[str, type[Layer]] = {"AlibiBias": AlibiBias}

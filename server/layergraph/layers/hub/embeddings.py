"""Embeddings of tokens (keras_hub.layers.TokenAndPositionEmbedding, ReversibleEmbedding)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import boolean, option, positive_int
from layergraph.functional.call_context import CallContext
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.attention.multi_head import copied
from layergraph.layers.core import reversible_embedding
from layergraph.layers.hub.composite import CompositeLayer
from layergraph.layers.hub.positions import PositionEmbedding


class ReversibleEmbedding(reversible_embedding.ReversibleEmbedding):
    """Keras's layer of that name, under which KerasHub registers it, too."""


class TokenAndPositionEmbedding(CompositeLayer):
    """The sum of the vectors of tokens and of positions (keras_hub.layers.TokenAndPositionEmbedding).

    Ids (rows, timesteps), outputs (rows, timesteps, embedding_dim).

    sequence_length   maximum number of timesteps
    tie_weights       whether the tokens' vectors also are the reverse projection
    mask_zero         whether id 0 is padding: the output's mask is `ids != 0`
    """

    vocabulary_size: int = option(positive_int)
    sequence_length: int = option(positive_int)
    embedding_dim: int = option(positive_int)
    tie_weights: bool = option(boolean, default=True)
    embeddings_initializer: Any = option(initializer, default="uniform")
    mask_zero: bool = option(boolean, default=False)

    supports_masking = True
    masks_in_calls = False

    def setup(self) -> None:
        self.sublayers["token_embedding"] = reversible_embedding.ReversibleEmbedding(
            self.vocabulary_size,
            self.embedding_dim,
            tie_weights=self.tie_weights,
            embeddings_initializer=copied(self.embeddings_initializer),
            mask_zero=self.mask_zero,
            dtype=self.dtype_policy,
            name="token_embedding",
        )
        self.sublayers["position_embedding"] = PositionEmbedding(
            self.sequence_length,
            initializer=copied(self.embeddings_initializer),
            dtype=self.dtype_policy,
            name="position_embedding",
        )

    @property
    def token_embedding(self) -> Layer:
        """The embedding of the tokens."""
        return self.sublayers["token_embedding"]

    def build(self, input_shape: Any, *rest: Any) -> None:
        shapes = (input_shape, (*input_shape, self.embedding_dim))
        for (group, layer), shape in zip(list(self.sublayers.items()), shapes, strict=True):
            # A head that shares the tokens' vectors may be built before.
            if not layer.built:
                self.add(group, layer, shape)

    def forward(
        self, context: CallContext, w: Weights, inputs: torch.Tensor, start_index: Any = 0, positions: Any = None
    ) -> torch.Tensor:
        """Returns the sums of the vectors. Raises DataError for ids or positions outside of the tables."""
        tokens = self.run(context, w, "token_embedding", inputs)
        total: torch.Tensor = tokens + self.run(context, w, "position_embedding", tokens, start_index, positions)
        return total

    def compute_mask(self, context: CallContext, inputs: Any, mask: Any) -> Any:
        """False for id 0, if `mask_zero`; otherwise the inputs' mask."""
        return inputs != 0 if self.mask_zero else mask


LAYERS: dict[str, type[Layer]] = {
    "ReversibleEmbedding": ReversibleEmbedding,
    "TokenAndPositionEmbedding": TokenAndPositionEmbedding,
}

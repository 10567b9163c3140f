"""The head of masked language models (keras_hub.layers.MaskedLMHead)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import Expected, nonnegative, option, optional, positive_int
from layergraph.errors import ConfigError
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activate, activation
from layergraph.layers.core.basic import Dense
from layergraph.layers.core.reversible_embedding import ReversibleEmbedding
from layergraph.layers.hub.composite import CompositeLayer, checked_sequence
from layergraph.layers.hub.ranges import in_range
from layergraph.layers.normalization.statistics import LayerNormalization


def _embedding(value: Any) -> ReversibleEmbedding:
    if isinstance(value, ReversibleEmbedding):
        return value
    raise Expected("a ReversibleEmbedding")


class MaskedLMHead(CompositeLayer):
    """Predicts the tokens at some positions (keras_hub.layers.MaskedLMHead).

    Inputs (rows, timesteps, features) and positions (rows, n), outputs (rows, n, vocabulary_size).

    token_embedding   layer whose vectors are the output's kernel; without it the head has a kernel of its own
    """

    vocabulary_size: int | None = option(optional(positive_int), default=None)
    token_embedding: ReversibleEmbedding | None = option(optional(_embedding), default=None)
    intermediate_activation: Activation = option(activation, default="relu")
    activation: Activation = option(activation, default=None)
    layer_norm_epsilon: float = option(nonnegative, default=1e-5)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")

    autocast = False

    def setup(self) -> None:
        """Takes the vocabulary's size from the embedding. Raises ConfigError if there is none, or two sizes."""
        size = self.vocabulary_size if self.token_embedding is None else self.token_embedding.input_dim
        if size is None or self.vocabulary_size not in (None, size):
            raise ConfigError(
                f"MaskedLMHead: option 'vocabulary_size' is {self.vocabulary_size}, expected the input_dim of "
                f"token_embedding{'' if size is None else f', which is {size}'}"
            )
        self.vocabulary_size = size
        if self.token_embedding is not None:
            self.sublayers["token_embedding"] = self.token_embedding
        if isinstance(self.activation, Layer):
            self.sublayers["activation"] = self.activation

    def build(self, inputs_shape: Any, *rest: Any) -> None:
        """Creates the sublayers, the bias, and a kernel unless there is a token_embedding."""
        shape = checked_sequence(self, inputs_shape)
        features: Any = shape[-1] if self.token_embedding is None else self.token_embedding.output_dim
        if self.token_embedding is not None and not self.token_embedding.built:
            self.add("token_embedding", self.token_embedding, shape[:2])
        dense = Dense(
            features,
            activation=self.intermediate_activation,
            kernel_initializer=self.kernel_initializer,
            bias_initializer=self.bias_initializer,
            dtype=self.dtype_policy,
            name="intermediate_dense",
        )
        self.add("_intermediate_dense", dense, shape)
        norm = LayerNormalization(
            epsilon=self.layer_norm_epsilon, dtype=self.dtype_policy, name="intermediate_layer_norm"
        )
        self.add("_intermediate_layer_norm", norm, (*shape[:-1], features))
        if self.token_embedding is None:
            self.add_weight("output_kernel", (features, self.vocabulary_size), self.kernel_initializer)
        self.add_weight("output_bias", (self.vocabulary_size,), self.bias_initializer)

    def forward(  # type: ignore[override]  # as every layer, it names the arguments of its calls
        self, context: CallContext, w: Weights, inputs: torch.Tensor, mask_positions: torch.Tensor
    ) -> torch.Tensor:
        """Returns the predictions. Raises DataError for a position outside of the sequence."""
        places = self._known(mask_positions.to(torch.int64), inputs.shape[1])
        x = torch.take_along_dim(inputs, places.unsqueeze(-1), 1)
        x = self.run(context, w, "_intermediate_dense", x)
        x = self.run(context, w, "_intermediate_layer_norm", x)
        if self.token_embedding is None:
            outputs = x.to(w.output_kernel.dtype) @ w.output_kernel
        else:
            outputs = self.run(context, w, "token_embedding", x, reverse=True)
        outputs = outputs.to(torch_dtype(self.compute_dtype)) + w.output_bias
        return activate(self.activation, context, w, outputs)

    def _known(self, places: torch.Tensor, steps: int) -> torch.Tensor:
        """Positions from 0 on; negative ones count from the end."""
        return in_range(
            torch.where(places < 0, places + steps, places), steps, f"layer '{self.name}' (MaskedLMHead): got position"
        )


LAYERS: dict[str, type[Layer]] = {"MaskedLMHead": MaskedLMHead}

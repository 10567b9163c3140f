"""A block of a transformer's encoder (keras_hub.layers.TransformerEncoder)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import boolean, fraction, nonnegative, option, positive_int
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.activation_functions import Activation
from layergraph.layers.activations import activation
from layergraph.layers.attention.multi_head import MultiHeadAttention, copied
from layergraph.layers.hub.composite import BlockLayer, checked_sequence, merged_mask


class TransformerLayer(BlockLayer):
    """Options and parts that encoder and decoder share (Vaswani et al., 2017).

    intermediate_dim   number of features between the two dense layers of the feedforward part
    dropout            rate for attention weights and for the results of both parts
    normalize_first    whether inputs of each part are normalized (as in GPT-2) rather than its results (as in BERT)
    """

    intermediate_dim: int = option(positive_int)
    num_heads: int = option(positive_int)
    dropout: float = option(fraction, default=0.0)
    activation: Activation = option(activation, default="relu")
    layer_norm_epsilon: float = option(nonnegative, default=1e-5)
    kernel_initializer: Any = option(initializer, default="glorot_uniform")
    bias_initializer: Any = option(initializer, default="zeros")
    normalize_first: bool = option(boolean, default=False)

    supports_masking = True
    masks_in_calls = False

    def attention_options(self, features: int | None) -> dict[str, Any]:
        """Options of the attention layers."""
        return {
            "num_heads": self.num_heads,
            "key_dim": self.head_size(features, self.num_heads),
            "dropout": self.dropout,
            "kernel_initializer": copied(self.kernel_initializer),
            "bias_initializer": copied(self.bias_initializer),
            "dtype": self.dtype_policy,
        }

    def add_feedforward(self, shape: Any) -> None:
        """Adds the two dense layers of the feedforward part."""
        self.add_dense("feedforward_intermediate_dense", self.intermediate_dim, self.activation, shape)
        inner = (*shape[:-1], self.intermediate_dim)
        self.add_dense("feedforward_output_dense", shape[-1], None, inner)

    def before(self, context: CallContext, w: Weights, part: str, x: torch.Tensor) -> torch.Tensor:
        """Returns a part's inputs, normalized if `normalize_first`."""
        normalized: torch.Tensor = self.run(context, w, f"_{part}_norm", x) if self.normalize_first else x
        return normalized

    def after(self, context: CallContext, w: Weights, part: str, dropout: str, x: Any, inputs: Any) -> torch.Tensor:
        """Adds a part's inputs to its results, which are normalized unless `normalize_first`."""
        total: torch.Tensor = self.run(context, w, dropout, x) + inputs
        return total if self.normalize_first else self.run(context, w, f"_{part}_norm", total)

    def feedforward(self, context: CallContext, w: Weights, x: torch.Tensor) -> torch.Tensor:
        """Computes the feedforward part."""
        y = self.before(context, w, "feedforward_layer", x)
        y = self.run(context, w, "_feedforward_intermediate_dense", y)
        y = self.run(context, w, "_feedforward_output_dense", y)
        return self.after(context, w, "feedforward_layer", "_feedforward_dropout", y, x)


class TransformerEncoder(TransformerLayer):
    """Attention of a sequence on itself, then a feedforward part (keras_hub.layers.TransformerEncoder).

    Inputs and outputs have shape (rows, timesteps, features).
    """

    def build(self, inputs_shape: Any, *rest: Any) -> None:
        """Creates the sublayers. Raises GraphError for another rank, or for fewer features than heads."""
        shape = checked_sequence(self, inputs_shape)
        attention = MultiHeadAttention(**self.attention_options(shape[-1]), name="self_attention_layer")
        self.add("_self_attention_layer", attention, shape, shape)
        self.add_norm("self_attention_layer_norm", shape)
        self.add_dropout("self_attention_dropout", shape)
        self.add_norm("feedforward_layer_norm", shape)
        self.add_feedforward(shape)
        self.add_dropout("feedforward_dropout", shape)

    def forward(
        self,
        context: CallContext,
        w: Weights,
        inputs: torch.Tensor,
        padding_mask: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_attention_scores: bool = False,
        inputs_mask: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Any:
        """Returns the outputs and, with `return_attention_scores`, the attention weights (rows, heads, T, T).

        Keys are masked by `padding_mask` (rows, T), by default the inputs' own mask, and `attention_mask`
        (rows, T, T).
        """
        own = inputs_mask if mask is None else mask
        combined = merged_mask(context, [inputs], own, padding_mask, attention_mask)
        x = self.before(context, w, "self_attention_layer", inputs)
        # The attention layer applies the inputs' own mask, too.
        masks = {"query_mask": own, "value_mask": own, "attention_mask": combined}
        attended = self.run(
            context, w, "_self_attention_layer", x, x, **masks, return_attention_scores=return_attention_scores
        )
        y, scores = attended if return_attention_scores else (attended, None)
        x = self.after(context, w, "self_attention_layer", "_self_attention_dropout", y, inputs)
        x = self.feedforward(context, w, x)
        return [x, scores] if return_attention_scores else x

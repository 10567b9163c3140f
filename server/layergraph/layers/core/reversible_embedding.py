"""Embeddings that also project vectors back to ids (keras.layers.ReversibleEmbedding)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import boolean, number, option, optional
from layergraph.constraints import constraint
from layergraph.functional.call_context import CallContext
from layergraph.functional.dtypes import dtype, torch_dtype
from layergraph.functional.layer import Layer
from layergraph.functional.weights import Weights
from layergraph.initializers import initializer
from layergraph.layers.core.basic import Embedding
from layergraph.regularizers import regularizer


class ReversibleEmbedding(Embedding):
    """An embedding; with `reverse=True`, maps vectors (..., output_dim) to logits (..., input_dim).

    tie_weights      whether the reverse projection uses the same weights
    reverse_dtype    dtype of the reverse projection
    logit_soft_cap   bound of the logits' absolute value, applied by tanh
    """

    tie_weights: bool = option(boolean, default=True, kw_only=True)
    embeddings_initializer: Any = option(initializer, default="uniform")
    embeddings_regularizer: Any = option(regularizer, default=None)
    embeddings_constraint: Any = option(constraint, default=None)
    mask_zero: bool = option(boolean, default=False)
    reverse_dtype: str | None = option(optional(dtype), default=None, kw_only=True)
    logit_soft_cap: float | None = option(optional(number), default=None, kw_only=True)

    def build(self, input_shape: Any) -> None:
        """Creates the embeddings and, if not tied, the reverse embeddings."""
        super().build(input_shape)
        if not self.tie_weights:
            self.add_weight("reverse_embeddings", (self.output_dim, self.input_dim), self.embeddings_initializer)

    def forward(self, context: CallContext, w: Weights, inputs: torch.Tensor, reverse: bool = False) -> torch.Tensor:
        """Looks up the vectors of ids or, with `reverse`, computes the logits of vectors."""
        if not reverse:
            return super().forward(context, w, inputs)
        kernel = w.embeddings.t() if self.tie_weights else w.reverse_embeddings
        kind = torch_dtype(self.reverse_dtype or self.compute_dtype)
        logits: torch.Tensor = inputs.to(kind) @ kernel.to(kind)
        return capped(logits, self.logit_soft_cap)

    def execute(
        self,
        context: CallContext,
        w: Weights,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        previous_mask: Any,
        *,
        want_masks: bool,
    ) -> tuple[Any, Any]:
        """Like any layer's; logits have no mask."""
        outputs, mask = super().execute(context, w, args, kwargs, previous_mask, want_masks=want_masks)
        reverse = args[1] if len(args) > 1 else kwargs.get("reverse", False)
        return outputs, None if reverse else mask


def capped(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """Bounds the logits to (-cap, cap) by tanh; None means no bound."""
    return logits if cap is None else torch.tanh(logits / cap) * cap


LAYERS: dict[str, type[Layer]] = {"ReversibleEmbedding": ReversibleEmbedding}

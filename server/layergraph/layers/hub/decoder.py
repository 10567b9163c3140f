"""A block of a transformer's decoder (keras_hub.layers.TransformerDecoder)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.config.options import option, optional, shape
from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.layers.hub.cached_attention import CachedMultiHeadAttention
from layergraph.layers.hub.composite import checked_sequence, merged_mask
from layergraph.layers.hub.encoder import TransformerLayer


class TransformerDecoder(TransformerLayer):
    """Causal attention of a sequence on itself, attention on an encoder's outputs if the layer is called with them,
    and a feedforward part (keras_hub.layers.TransformerDecoder).

    decoder_sequence_shape, encoder_sequence_shape   shapes of the inputs in files, from which KerasHub builds the layer
    """

    decoder_sequence_shape: Any = option(optional(shape), default=None, kw_only=True)
    encoder_sequence_shape: Any = option(optional(shape), default=None, kw_only=True)

    def build(self, decoder_sequence_shape: Any, encoder_sequence_shape: Any = None, *rest: Any) -> None:
        """Creates the sublayers. Raises GraphError for other ranks, or for fewer features than heads."""
        inputs = checked_sequence(self, decoder_sequence_shape)
        if self.encoder_sequence_shape and not encoder_sequence_shape:
            raise GraphError(
                f"layer '{self.name}' (TransformerDecoder): called without encoder_sequence, expected one of shape "
                f"{self.encoder_sequence_shape}"
            )
        options = self.attention_options(inputs[-1])
        attention = CachedMultiHeadAttention(**options, name="self_attention")
        self.add("_self_attention_layer", attention, inputs, inputs)
        self.add_norm("self_attention_layer_norm", inputs)
        self.add_dropout("self_attention_dropout", inputs)
        self.decoder_sequence_shape, self.encoder_sequence_shape = inputs, None
        if encoder_sequence_shape:
            self.encoder_sequence_shape = checked_sequence(self, encoder_sequence_shape)
            options = self.attention_options(inputs[-1])
            attention = CachedMultiHeadAttention(**options, name="cross_attention")
            self.add("_cross_attention_layer", attention, inputs, self.encoder_sequence_shape)
            self.add_norm("cross_attention_layer_norm", inputs)
            self.add_dropout("cross_attention_dropout", inputs)
        self.add_feedforward(inputs)
        self.add_norm("feedforward_layer_norm", inputs)
        self.add_dropout("feedforward_dropout", inputs)

    def forward(
        self,
        context: CallContext,
        w: Weights,
        decoder_sequence: torch.Tensor,
        encoder_sequence: torch.Tensor | None = None,
        decoder_padding_mask: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | None = None,
        encoder_padding_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        self_attention_cache: torch.Tensor | None = None,
        self_attention_cache_update_index: Any = None,
        cross_attention_cache: torch.Tensor | None = None,
        cross_attention_cache_update_index: Any = None,
        use_causal_mask: bool = True,
        decoder_sequence_mask: torch.Tensor | None = None,
        encoder_sequence_mask: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
    ) -> Any:
        """Returns the outputs (rows, T, features), then the caches if given.

        Masks are (rows, timesteps) for padding and (rows, queries, keys) for attention; caches are those of
        CachedMultiHeadAttention. Raises GraphError if only some calls have an encoder_sequence, or only one cache is
        given.
        """
        crosses = "_cross_attention_layer" in self.sublayers
        if crosses != (encoder_sequence is not None):
            built = "with" if crosses else "without"
            raise GraphError(f"expected a call {built} encoder_sequence, as in the layer's first call")
        if crosses and (self_attention_cache is None) != (cross_attention_cache is None):
            raise GraphError("got one cache, expected a self_attention_cache and a cross_attention_cache, or neither")
        own = decoder_sequence_mask if mask is None else mask
        allowed = merged_mask(context, [decoder_sequence], own, decoder_padding_mask, decoder_attention_mask)
        if use_causal_mask:
            causal = _causal_mask(decoder_sequence, self_attention_cache, self_attention_cache_update_index)
            allowed = causal if allowed is None else torch.minimum(allowed, causal)
        x = decoder_sequence
        x, self_cache = self._attended(
            context, w, "self_attention", x, None, allowed, self_attention_cache, self_attention_cache_update_index
        )
        cross_cache = None
        if encoder_sequence is not None:
            masks = encoder_sequence_mask, encoder_padding_mask, encoder_attention_mask
            allowed = merged_mask(context, [x, encoder_sequence], *masks)
            index = cross_attention_cache_update_index
            x, cross_cache = self._attended(
                context, w, "cross_attention", x, encoder_sequence, allowed, cross_attention_cache, index
            )
        x = self.feedforward(context, w, x)
        caches = [cache for cache in (self_cache, cross_cache) if cache is not None]
        return [x, *caches] if caches else x

    def _attended(
        self,
        context: CallContext,
        w: Weights,
        part: str,
        x: torch.Tensor,
        value: torch.Tensor | None,
        mask: torch.Tensor | None,
        cache: torch.Tensor | None,
        index: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Computes one of the attention parts. Returns its results and its cache."""
        query = self.before(context, w, f"{part}_layer", x)
        options = {"attention_mask": mask, "cache": cache, "cache_update_index": index}
        y = self.run(context, w, f"_{part}_layer", query, query if value is None else value, **options)
        y, cache = (y, None) if cache is None else y
        return self.after(context, w, f"{part}_layer", f"_{part}_dropout", y, x), cache


def _causal_mask(x: torch.Tensor, cache: torch.Tensor | None, start: Any) -> torch.Tensor:
    """Integers (rows, T, S): 1 for keys at or before the query, whose first timestep is `start` in the cache."""
    steps = x.shape[1]
    keys = torch.arange(steps if cache is None else cache.shape[2], device=x.device)
    queries = torch.arange(steps, device=x.device) + (0 if start is None else start)
    return (queries.reshape(-1, 1) >= keys).to(torch.int32).expand(x.shape[0], -1, -1)

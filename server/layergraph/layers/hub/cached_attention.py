"""Multi-head attention on keys and values of earlier calls (keras_hub.layers.CachedMultiHeadAttention)."""

from __future__ import annotations

from typing import Any

import torch

from layergraph.errors import GraphError
from layergraph.functional.call_context import CallContext
from layergraph.functional.weights import Weights
from layergraph.layers.attention.multi_head import MultiHeadAttention
from layergraph.layers.attention.scores import fused_attention
from layergraph.layers.hub.composite import has_unknown_length


class CachedMultiHeadAttention(MultiHeadAttention):  # type: ignore[misc]  # as its base, which redeclares options
    """Multi-head attention that can read keys and values from a cache (rows, 2, S, heads, key_dim).

    Masks that query and value come with aren't applied, only `attention_mask`, and there is neither a gate nor a
    sliding window, as in KerasHub.
    """

    masks_in_calls = False

    @property
    def removes_masks(self) -> bool:
        """The inputs keep their masks, which aren't used."""
        return False

    def forward(  # type: ignore[override]  # as every layer, it names the arguments of its calls
        self,
        context: CallContext,
        w: Weights,
        query: torch.Tensor,
        value: torch.Tensor,
        key: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        cache: torch.Tensor | None = None,
        cache_update_index: Any = None,
        return_attention_scores: bool = False,
    ) -> Any:
        """Returns the outputs, then the attention weights with `return_attention_scores`, then the cache if given.

        With `cache_update_index`, the keys and values of this call replace those of the cache from there on; without
        it, they are ignored. Raises GraphError for an index without a cache.
        """
        if cache is None and cache_update_index is not None:
            raise GraphError("got a cache_update_index without a cache, expected both or neither")
        if cache is None or cache_update_index is not None:
            keys = self._projected(context, w, "key", value if key is None else key)
            values = self._projected(context, w, "value", value)
            if cache is not None:
                keys, values = (_updated(cache[:, i], x, cache_update_index) for i, x in enumerate((keys, values)))
                cache = torch.stack((keys, values), 1)
        else:
            keys, values = cache.unbind(1)
        queries = self._projected(context, w, "query", query)
        mask = None
        if attention_mask is not None and not has_unknown_length(context, (query, value, attention_mask)):
            mask = self.for_scores(attention_mask.bool(), queries)
        weights = None
        if self.dropout or return_attention_scores or queries.ndim != 4:
            attended, weights = self.attend(context, queries, keys, values, mask)
        else:
            attended = fused_attention(queries, keys, values, mask, causal=False, additive=False)
        outputs = [self._projected(context, w, "output", attended)]
        outputs += [weights] if return_attention_scores and weights is not None else []
        outputs += [] if cache is None else [cache]
        return outputs[0] if len(outputs) == 1 else outputs


def _updated(cached: torch.Tensor, new: torch.Tensor, start: Any) -> torch.Tensor:
    """Returns the cache (rows, S, ...) with `new` (rows, T, ...) from timestep `start` on."""
    places = torch.arange(new.shape[1], device=cached.device) + start
    return cached.index_copy(1, places.reshape(-1), new.to(cached.dtype))

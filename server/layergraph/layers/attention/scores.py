"""Masks of attention scores, and attention in one operation."""

from __future__ import annotations

import math

import torch

from layergraph.functional.call_context import CallContext


def causal_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Boolean mask (1, queries, keys): True for keys at or before the query's timestep."""
    return torch.ones((1, queries, keys), dtype=torch.bool, device=device).tril()


def window_mask(queries: int, keys: int, width: int, device: torch.device) -> torch.Tensor:
    """Boolean mask (1, queries, keys): True for keys fewer than `width` timesteps from the query."""
    steps = torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)
    return (steps.abs() < width).unsqueeze(0)


def with_axes_at(mask: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """Inserts axes of length 1 at `axis` until the mask has rank `rank`."""
    while mask.ndim < rank:
        mask = mask.unsqueeze(axis)
    return mask


def as_many_steps(context: CallContext, x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """In shape inference, gives values, or their mask, the number of timesteps of `key` if either is unknown."""
    known = context.symbolic_dims
    if known is None or not (known.is_unknown(x, 1) or known.is_unknown(key, 1)):
        return x
    return x.new_empty((x.shape[0], key.shape[1], *x.shape[2:]))


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool,
    additive: bool,
) -> torch.Tensor:
    """softmax(query @ key / sqrt(d)) @ value for (rows, timesteps, heads, d) (keras.ops.dot_product_attention).

    Each key head is used by several consecutive query heads if there are fewer key heads. A row with nothing to attend
    to gets equal weights, as in Keras. Only an additive mask may have numbers.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if key.shape[1] < query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    bias = None if mask is None else (1 - mask.to(query.dtype)) * _lowest(query.dtype, additive)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=causal and mask is None, scale=1 / math.sqrt(query.shape[-1])
    )
    return attended.transpose(1, 2)


def _lowest(dtype: torch.dtype, additive: bool) -> float:
    """The number that Keras adds to masked scores."""
    if additive:
        return -65504.0 if dtype == torch.float16 else -1e9
    return -0.7 * (65500.0 if dtype == torch.float16 else 3.38953e38)

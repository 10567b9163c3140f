"""Masks and softmax of attention scores, as in the different generations of Keras."""

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


def masked_softmax(
    scores: torch.Tensor, mask: torch.Tensor | None, axes: tuple[int, ...], *, rule: str
) -> torch.Tensor:
    """Softmax over `axes` of the elements where the mask is True.

    Where it is False for all, the result is zeros with the rule `keras3`. With `keras2`, a large negative number is
    added to the scores, and with `robust` it takes their place, so such a row has equal weights.
    """
    if mask is not None:
        half = scores.dtype == torch.float16
        if rule == "keras2":
            scores = scores + torch.where(mask, 0.0, -65504.0 if half else -1e9).to(scores.dtype)
        else:
            scores = torch.where(mask, scores, -3e4 if half else -1e9)
    if len(axes) == 1:
        weights = torch.softmax(scores, axes[0])
    else:
        weights = torch.exp(scores - torch.logsumexp(scores, axes, keepdim=True))
    return weights if mask is None or rule != "keras3" else torch.where(mask, weights, 0)


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
    to gets equal weights, as in Keras.
    """
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    if key.shape[1] < query.shape[1]:
        repeats = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    bias = None if mask is None else torch.where(mask, 0.0, _lowest(query.dtype, additive)).to(query.dtype)
    attended = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=bias, is_causal=causal and mask is None, scale=1 / math.sqrt(query.shape[-1])
    )
    return attended.transpose(1, 2)


def _lowest(dtype: torch.dtype, additive: bool) -> float:
    """The number that Keras adds to masked scores."""
    if additive:
        return -65504.0 if dtype == torch.float16 else -1e9
    return -0.7 * (65500.0 if dtype == torch.float16 else 3.38953e38)

"""Masks and softmax of attention scores, as Keras's generations compute them."""

from __future__ import annotations

import math

import torch

from layergraph.functional.call_context import CallContext


def causal_mask(queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """Which keys a query may attend to if none may come after it: boolean (1, queries, keys)."""
    return torch.ones((1, queries, keys), dtype=torch.bool, device=device).tril()


def window_mask(queries: int, keys: int, width: int, device: torch.device) -> torch.Tensor:
    """Which keys lie less than `width` steps from a query: boolean (1, queries, keys)."""
    steps = torch.arange(queries, device=device)[:, None] - torch.arange(keys, device=device)
    return (steps.abs() < width).unsqueeze(0)


def with_axes_at(mask: torch.Tensor, rank: int, axis: int) -> torch.Tensor:
    """The mask with axes of 1 put in at `axis` until it has `rank` of them."""
    while mask.ndim < rank:
        mask = mask.unsqueeze(axis)
    return mask


def as_many_steps(context: CallContext, x: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Values, or their mask, as many as keys: where only one of the numbers is known, data brings what agrees."""
    known = context.symbolic_dims
    if known is None or not (known.is_unknown(x, 1) or known.is_unknown(key, 1)):
        return x
    return x.new_empty((x.shape[0], key.shape[1], *x.shape[2:]))


def masked_softmax(
    scores: torch.Tensor, mask: torch.Tensor | None, axes: tuple[int, ...], *, additive: bool
) -> torch.Tensor:
    """Softmax over `axes` in which only elements count where the mask holds.

    Where none does, Keras 3 gives zeros. Keras 2 (`additive`) lowers the scores, so that such a row counts all alike.
    """
    if mask is not None:
        half = scores.dtype == torch.float16
        if additive:
            scores = scores + torch.where(mask, 0.0, -65504.0 if half else -1e9).to(scores.dtype)
        else:
            scores = torch.where(mask, scores, -3e4 if half else -1e9)
    if len(axes) == 1:
        weights = torch.softmax(scores, axes[0])
    else:
        weights = torch.exp(scores - torch.logsumexp(scores, axes, keepdim=True))
    return weights if mask is None or additive else torch.where(mask, weights, 0)


def fused_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    causal: bool,
    additive: bool,
) -> torch.Tensor:
    """softmax(query @ key / sqrt(d)) @ value for (rows, steps, heads, d) (keras.ops.dot_product_attention).

    Fewer key than query heads are each used by several query heads in a row. A row that attends to nothing attends to
    all alike, as in Keras.
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
    """What Keras adds to scores that don't count."""
    if additive:
        return -65504.0 if dtype == torch.float16 else -1e9
    return -0.7 * (65500.0 if dtype == torch.float16 else 3.38953e38)

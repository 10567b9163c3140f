"""Softmax of what a mask keeps, as in the different generations of Keras: in attention and in the layer."""

from __future__ import annotations

import torch


def masked_scores(scores: torch.Tensor, mask: torch.Tensor, lowest: float, rule: str) -> torch.Tensor:
    """Scores with the large negative number `lowest` where the mask excludes them.

    With the rules `keras3` and `robust` it takes their place where a mask of numbers is 0.5 or less. Up to Keras 3.12
    it is added to them, times one minus the mask, so that a mask of 0.5 adds half of it.
    """
    if rule in ("keras3", "robust"):
        return torch.where(_kept(mask), scores, lowest)
    return scores + (1 - mask.to(scores.dtype)) * lowest


def masked_weights(weights: torch.Tensor, mask: torch.Tensor, rule: str) -> torch.Tensor:
    """The softmax of masked scores with zeros where the mask excludes them, as since Keras 3.10."""
    if rule == "keras3.12":
        return weights * mask.to(weights.dtype)
    return torch.where(_kept(mask), weights, 0) if rule == "keras3" else weights


def _kept(mask: torch.Tensor) -> torch.Tensor:
    return mask if mask.dtype == torch.bool else mask > 0.5


def masked_softmax(
    scores: torch.Tensor, mask: torch.Tensor | None, axes: tuple[int, ...], *, rule: str
) -> torch.Tensor:
    """Softmax over `axes` of the elements that a mask of booleans or numbers keeps.

    Where it keeps none, the result is zeros with the rules `keras3` and `keras3.12`, and equal weights with others.
    """
    if mask is not None:
        lowest = -1e9 if scores.dtype != torch.float16 else -65504.0 if rule == "keras2" else -3e4
        scores = masked_scores(scores, mask, lowest, rule)
    if len(axes) == 1:
        weights = torch.softmax(scores, axes[0])
    else:
        weights = torch.exp(scores - torch.logsumexp(scores, axes, keepdim=True))
    return weights if mask is None else masked_weights(weights, mask, rule)

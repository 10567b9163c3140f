"""Batch renormalization (Ioffe, 2017), an option of tf.keras's BatchNormalization."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch

from layergraph.config.options import Expected, number
from layergraph.functional.weights import Weights

_LIMITS = ("rmin", "rmax", "dmax")


def clipping(value: Any) -> dict[str, float]:
    """Validator: limits of the corrections by name, rmin, rmax and dmax; each may be missing."""
    if value is None:
        return {}
    if not isinstance(value, Mapping) or not value.keys() <= set(_LIMITS):
        raise Expected(f"an object with numbers for some of {list(_LIMITS)}")
    return {key: number(limit) for key, limit in value.items() if limit is not None}


def corrections(
    w: Weights, mean: torch.Tensor, variance: torch.Tensor, epsilon: float, limits: Mapping[str, float]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and summand that bring what the batch's statistics normalize to what the moving ones would.

    They have no gradient. Source: tf.keras.layers.BatchNormalization._renorm_correction_and_moments.
    """
    with torch.no_grad():
        deviation = w.renorm_stddev.clamp_min(math.sqrt(epsilon))
        factor = torch.sqrt(variance + epsilon) / deviation
        summand = (mean - w.renorm_mean) / deviation
        factor = factor.clamp(limits.get("rmin"), limits.get("rmax")) if limits.keys() & {"rmin", "rmax"} else factor
        most = limits.get("dmax")
        return factor, summand if most is None else summand.clamp(-most, most)

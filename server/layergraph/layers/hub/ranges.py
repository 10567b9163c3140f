"""Checks of positions before they are looked up."""

from __future__ import annotations

import torch

from layergraph.errors import DataError
from layergraph.functional import runtime_assertions


def in_range(places: torch.Tensor, size: int, got: str) -> torch.Tensor:
    """Returns the positions. Raises DataError, which begins with `got`, for one outside of 0 to size - 1."""
    if places.is_meta or not places.numel():
        return places
    if runtime_assertions.is_recording():
        # An engine must not read beyond the table, whatever its inputs.
        clamped = places.clamp(0, size - 1)
        runtime_assertions.record(clamped == places)
        return clamped
    lowest, highest = (int(bound) for bound in torch.aminmax(places))
    if lowest < 0 or highest >= size:
        raise DataError(f"{got} {lowest if lowest < 0 else highest}, expected 0 to {size - 1}")
    return places

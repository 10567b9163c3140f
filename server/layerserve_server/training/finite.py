"""Weights that training has made NaN or infinite: a model that has any isn't published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from layerserve_server.errors import NotFiniteError

if TYPE_CHECKING:
    from layergraph.models.model import Model


def check_finite(model: Model, base: Path) -> None:
    """Raises NotFiniteError if `not_finite` finds a weight."""
    if found := not_finite(model, base):
        raise NotFiniteError(f"{found}; so the model isn't published")


def not_finite(model: Model, base: Path) -> str:
    """Returns which weight is the first with a NaN or infinity that `base` lacks, the model's file before training.

    `base` may also be the folder of the file. Empty if there is none: a mask of -inf that was there stays.
    """
    suspects = [weight for weight in model.weights if not weight.is_finite]
    if not suspects:
        return ""
    from layergraph import load_model

    before = [(one.path, one.value) for one in load_model(base, compile=False, keep_lora=True).weights]
    for weight in suspects:
        value = weight.value.detach().cpu()
        wrong = ~value.isfinite()
        for path, known in before:
            if path == weight.path and known.shape == value.shape:
                wrong &= ~((value == known) | (value.isnan() & known.isnan()))
        if count := int(wrong.sum()):
            return f"weight '{weight.path}' isn't finite: {count} of {weight.size} values are NaN or infinite"
    return ""

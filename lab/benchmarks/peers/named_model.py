"""The model that a peer's command line names: MODEL, or MODEL ENGINE FILE."""

from __future__ import annotations

from model import Model


def named_model(model: str, engine: str = "", file: str = "") -> Model:
    """The ONNX file in an engine of `onnx_models.ENGINES`, or without one a network of `torch_models`."""
    if engine:
        from onnx_models import ENGINES

        return ENGINES[engine](file)
    from torch_models import in_torch

    return in_torch(model)

"""The namespace of a layer's weights that `forward` takes.

Weights are an argument of the computation. So one graph runs with several sets of them: on `meta` to infer shapes, on a
device, or cast to another type.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Weights(SimpleNamespace):
    """Bound weights: `w.kernel` is the tensor of the weight `kernel`, `w["layer"]` the namespace of a sublayer."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> torch.Tensor: ...

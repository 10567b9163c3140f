"""The tensors of a layer's weights, as its maths takes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class Weights(SimpleNamespace):
    """`w.kernel` is the tensor of the weight `kernel`; `w["layer"]` are those of the layer inside of that name."""

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> torch.Tensor: ...

"""Values of weights in the form in which files store them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layergraph.functional.layer import Layer
from layergraph.functional.weight import Weight


def stored_values(weight: Weight) -> np.ndarray[Any, Any]:
    """A view of the weight's values; bfloat16, which NumPy lacks, as two raw bytes, as in Keras."""
    return _stored(weight.value)


def placed_values(layer: Layer, weight: Weight) -> np.ndarray[Any, Any]:
    """Like `stored_values`, in Keras 3's layout: a kernel with LoRA weights is merged with them."""
    lora = layer.lora
    return stored_values(weight) if lora is None or weight is not lora.base else _stored(lora.merged())


def _stored(value: torch.Tensor) -> np.ndarray[Any, Any]:
    value = value.detach().cpu()
    return value.contiguous().view(torch.int16).numpy().view("V2") if value.dtype == torch.bfloat16 else value.numpy()

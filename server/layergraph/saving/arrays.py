"""The values of weights as files hold them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layergraph.functional.weight import Weight


def stored_values(weight: Weight) -> np.ndarray[Any, Any]:
    """A view of the weight's values; bfloat16, which NumPy lacks, as its two bytes, as Keras stores it."""
    value = weight.value.detach().cpu()
    return value.contiguous().view(torch.int16).numpy().view("V2") if value.dtype == torch.bfloat16 else value.numpy()

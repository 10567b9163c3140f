"""Values of weights in the form in which files store them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from layergraph.functional.weight import Weight


def stored_values(weight: Weight) -> np.ndarray[Any, Any]:
    """A view of the weight's values; bfloat16, which NumPy lacks, as two raw bytes, as in Keras."""
    value = weight.value.detach().cpu()
    return value.contiguous().view(torch.int16).numpy().view("V2") if value.dtype == torch.bfloat16 else value.numpy()

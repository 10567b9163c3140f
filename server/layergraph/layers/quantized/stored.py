"""Infers a kernel's quantization from the arrays of a file, where the config lacks it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Protocol

from layergraph.config.quantization import Quantization
from layergraph.layers.core.einsum import EinsumDense


class StoredForm(Protocol):
    """An array of a file, of known shape and dtype."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> str: ...


def stored_quantization(layer: EinsumDense, arrays: Mapping[str, StoredForm]) -> Quantization | None:
    """Returns the quantization of a layer built without one, given the stored arrays by name or position.

    None if the arrays are those of an unquantized kernel, or don't match any known quantization.
    """
    kernel = layer.own_weights[0].shape
    forms = {name: (array.shape, array.dtype) for name, array in arrays.items()}
    # The kernel comes first in files, except after the bias if it is calibrated.
    bias = len(layer.own_weights) - 1
    stored, count = forms.get("kernel", forms.get("0")), len(forms) - bias
    calibrated = forms.get("kernel", forms.get(str(bias)))
    if stored is not None and stored[1] == "int8":
        scale = forms.get("kernel_scale", forms.get(str(1 + bias), ((), "")))[0]
        if stored[0] == kernel and count == 2:
            return Quantization("int8")
        if count == 2:
            return Quantization("int4", 4)
        rows = stored[0][0]
        return Quantization("int4", 4, math.ceil(rows / max(scale[0], 1))) if count == 4 and scale else None
    if calibrated is not None and calibrated[1] == "uint8" and count in (4, 5):
        rows, columns = calibrated[0][1], math.prod(kernel) // max(calibrated[0][1], 1)
        scale = forms.get("kernel_scale", forms.get(str(bias + 1), ((), "")))[0]
        block = math.ceil(rows / scale[1]) if len(scale) == 2 and scale[1] > 1 else None
        bits = 4 if calibrated[0][0] == (columns + 1) // 2 else 8
        return Quantization("gptq" if count == 4 else "awq", bits, block)
    history = forms.get("inputs_amax_history", forms.get(str(2 + bias)))
    if count == 7 and history is not None and len(history[0]) == 1:
        return Quantization("float8", amax_history_length=history[0][0])
    return None

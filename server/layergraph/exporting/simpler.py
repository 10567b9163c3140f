"""Operations in terms of simpler ones, where torch's exporter to ONNX lacks them or torch.export fixes their lengths.

They apply while calls are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from layergraph.exporting.simpler_arrays import ARRAYS
from layergraph.exporting.simpler_numbers import NUMBERS


class SimplerOperations(TorchFunctionMode):
    """In the block, torch's functions of a table are replaced."""

    def __init__(self, table: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self._table = table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._table.get(func, func)(*args, **(kwargs or {}))


#: For every format.
ALWAYS: Mapping[Any, Callable[..., Any]] = {one: ARRAYS[one] for one in (torch.diff, torch.take_along_dim)}

#: For ONNX.
FOR_ONNX: Mapping[Any, Callable[..., Any]] = {**ARRAYS, **NUMBERS}

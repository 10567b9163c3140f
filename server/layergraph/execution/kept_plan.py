"""A plan without torch: engines that were kept compute it, for the inputs that they are known to agree on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from layergraph.errors import LayerGraphError
from layergraph.execution.finite import is_finite
from layergraph.execution.tuning.result import Tuning
from layergraph.functional.tensor import TensorSpec

Arrays = Mapping[str, np.ndarray[Any, Any]]


class NotKeptError(LayerGraphError):
    """What was kept of a model doesn't suffice; the model itself, with torch, does."""


class KeptPlan:
    """Computes all outputs of a model whose inputs have no open lengths but the rows. Thread-safe.

    Gives what `Plan.run` gives where an engine computes it, and raises NotKeptError where eager torch would.
    """

    def __init__(
        self, input_specs: Sequence[TensorSpec], output_specs: Sequence[TensorSpec], tuning: Tuning, *, batched: bool
    ) -> None:
        self.input_specs = tuple(input_specs)
        self.output_specs = tuple(output_specs)
        self.batched = batched
        self.engines = tuning.choices
        self._tuning = tuning
        self._inputs = [(spec.name, np.dtype(spec.dtype), spec.shape) for spec in self.input_specs]
        self._outputs = [spec.name for spec in self.output_specs]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Computes the outputs for arrays by input name."""
        arrays = []
        for name, dtype, shape in self._inputs:
            array = inputs.get(name)
            if array is None or array.dtype != dtype or array.ndim != len(shape):
                raise NotKeptError(f"input '{name}': engines can't compute it as it is")
            if any(expected not in (None, size) for size, expected in zip(array.shape, shape, strict=True)):
                raise NotKeptError(f"input '{name}': engines can't compute its shape {array.shape}")
            arrays.append(array if array.flags.c_contiguous else np.ascontiguousarray(array))
        rows = len(arrays[0]) if self.batched else 1
        with_rows = {
            len(array) for array, (_, _, shape) in zip(arrays, self._inputs, strict=True) if shape[:1] == (None,)
        }
        tuned = self._tuning.for_rows(rows)
        if tuned is None or not rows or len(with_rows) > 1:
            raise NotKeptError(f"no engine computes {rows} rows")
        if not all(array.size and (not tuned.finite or is_finite(array)) for array in arrays):
            raise NotKeptError("engines get finite values only")
        try:
            outputs = tuned.run(arrays)
        except Exception as reason:
            raise NotKeptError(f"engine '{tuned.name}' can't compute the inputs") from reason
        count = len(self._outputs)
        if not all(outputs[count:]):
            raise NotKeptError("a runtime assertion of the model doesn't hold")
        return dict(zip(self._outputs, outputs[:count], strict=True))

    def tune(self, **options: Any) -> Any:
        """Raises NotKeptError."""
        raise NotKeptError("engines are chosen with torch")

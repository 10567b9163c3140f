"""Golden numbers of a served model: random inputs, and the outputs that the server computes for them.

A version with such a file, `golden.npz`, is served only if it computes the same (see `docs/serving.md`).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from layerserve.errors import InvalidArgument
from layerserve.models.info import ModelInfo
from layerserve.prediction.blocking import PredictionMethods
from layerserve.values.tensor_spec import TensorSpec
from layerserve.values.tensors import Array

#: Number of rows, and lengths of axes of any length, which are tried in this order.
ROWS, LENGTHS = 2, (8, 64)
#: Outputs may differ by ATOL + RTOL x |expected|.
RTOL, ATOL = 1e-4, 1e-5
#: Kinds of arrays that such a file may have.
_NUMBERS = "biuf"


@dataclass(frozen=True)
class GoldenNumbers:
    """Inputs and outputs by name; without any, `missing` is the reason."""

    inputs: Mapping[str, Array]
    outputs: Mapping[str, Array]
    missing: str = ""

    def as_npz(self) -> bytes:
        """Returns the content of `golden.npz`."""
        arrays = {f"input/{name}": array for name, array in self.inputs.items()}
        arrays |= {f"output/{name}": array for name, array in self.outputs.items()}
        with io.BytesIO() as file:
            np.savez(file, allow_pickle=False, rtol=np.array(RTOL), atol=np.array(ATOL), **arrays)
            return file.getvalue()


def golden_numbers(client: PredictionMethods, model: ModelInfo) -> GoldenNumbers:
    """Computes them on the server. Models that take text, or no such rows, have none."""
    if texts := [spec.name for spec in model.inputs if spec.dtype == "string"]:
        return GoldenNumbers({}, {}, f"input '{texts[0]}' takes text, which can't be random")
    reason = ""
    for length in LENGTHS:
        random = np.random.default_rng(0)
        inputs = {spec.name: _random(random, spec, length) for spec in model.inputs}
        try:
            outputs = client.predict_named(model.name, inputs, version=model.version)
        except InvalidArgument as error:
            reason = str(error)
            continue
        if others := [name for name, array in outputs.items() if array.dtype.kind not in _NUMBERS]:
            return GoldenNumbers({}, {}, f"output '{others[0]}' has no numbers")
        return GoldenNumbers(inputs, dict(outputs))
    return GoldenNumbers({}, {}, reason)


def _random(random: np.random.Generator, spec: TensorSpec, length: int) -> Array:
    shape = [size or (ROWS if axis == 0 else length) for axis, size in enumerate(spec.shape)]
    if spec.dtype.startswith(("int", "uint", "bool")):
        # 0 and 1 are valid indices of any table.
        return random.integers(0, 2, shape).astype(spec.dtype)
    return random.standard_normal(shape).astype(spec.dtype if spec.dtype in ("float16", "float64") else "float32")

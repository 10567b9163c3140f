"""Compares random graphs of another release of Keras 3: `make -C lab fuzz FUZZ=keras3 KERAS=FOLDER COUNT=200 SEED=0`.

KERAS is a folder made by `pip install --no-deps --target FOLDER keras==3.8.0`, or the like. The step `make` has that
Keras build, compute and save the graphs; `check` loads their files here, and compares.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np
from runner import Fuzzer, Skipped, run


def make(seed: int, folder: Path) -> str:
    """Writes the graph of a seed; returns the release of Keras. Raises Skipped if Keras can't compute or save it."""
    import keras
    from random_wide_graphs import WideMaker

    keras.utils.set_random_seed(seed)
    keras.backend.clear_session()
    rng = np.random.default_rng(seed)
    try:
        model = WideMaker(keras, seed).model()
        _move(model, rng)
        arrays = [_data(tensor, rng) for tensor in keras.tree.flatten(model.input)]
        outputs = model(keras.tree.pack_sequence_as(model.input, arrays), training=False)
        results = [np.asarray(keras.ops.convert_to_numpy(y)) for y in keras.tree.flatten(outputs)]
        # NumPy lacks bfloat16.
        results = [y.astype("float32") if str(y.dtype) == "bfloat16" else y for y in results]
        model.save(folder / "model.keras")
    except Exception as error:
        raise Skipped(f"{type(error).__name__}: {error}") from error
    try:
        model.save(folder / "model.h5")
    except Exception:
        (folder / "model.h5").unlink(missing_ok=True)
    named = {f"in_{i}": array for i, array in enumerate(arrays)} | {f"out_{i}": y for i, y in enumerate(results)}
    np.savez(folder / "numbers.npz", **named)
    return f"made by Keras {keras.__version__}"


def _move(model: Any, rng: np.random.Generator) -> None:
    """Moves weights off their first values, so that a swapped weight shows."""
    for variable in model.weights:
        values = np.asarray(variable.numpy()).astype("float32")
        if not str(variable.dtype).startswith(("float", "bfloat")):
            continue
        moved = values + 0.2 * rng.standard_normal(values.shape)
        variable.assign(np.abs(moved) + 0.1 if "variance" in variable.name else moved)


def _data(tensor: Any, rng: np.random.Generator) -> np.ndarray[Any, Any]:
    shape = (3, *(4 if n is None else n for n in tensor.shape[1:]))
    if "int" in str(tensor.dtype):
        return rng.integers(0, 7, shape).astype("int32")
    if "bool" in str(tensor.dtype):
        return rng.random(shape) < 0.6
    return rng.standard_normal(shape).astype("float32")


def check(seed: int, folder: Path) -> None:
    """Raises AssertionError, with the names of the files, if the files of a seed give other numbers."""
    import layergraph

    arrays = np.load(folder / "numbers.npz")
    inputs = [arrays[f"in_{i}"] for i in range(sum(name.startswith("in_") for name in arrays))]
    wanted = [arrays[f"out_{i}"] for i in range(sum(name.startswith("out_") for name in arrays))]
    errors = {}
    for file in sorted(folder.glob("model.*")):
        try:
            _compare(layergraph.load_model(file), inputs, wanted)
        except Exception as error:
            errors[file.name] = error
    if errors:
        texts = [f"{name}: {type(error).__name__}: {error}" for name, error in errors.items()]
        raise AssertionError("\n".join(texts)) from next(iter(errors.values()))


def _compare(model: Any, inputs: list[Any], wanted: list[Any]) -> None:
    results = model.plan().run(dict(zip(model.input_names, inputs, strict=True)))
    for name, got, want in zip(results, results.values(), wanted, strict=True):
        half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.walk_layers())
        tolerance = 5e-2 if half else 1e-5
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=f"output '{name}'")


if __name__ == "__main__":
    sys.exit(run(Fuzzer("keras3", "graphs", check, make, peer="KERAS")))

"""Compares random graphs of any Keras 3 with what is made of their files here.

`PYTHONPATH=KERAS python tests/fuzz/keras3.py make FOLDER COUNT FIRST_SEED` has the Keras in that folder build, save and
compute them; `python tests/fuzz/keras3.py check FOLDER` loads and compares. A failure prints its seed.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import numpy as np


def make(folder: Path, count: int, first: int) -> None:
    """Writes the graphs of `count` seeds, as far as this Keras computes and saves them."""
    import keras
    from random_wide_graphs import WideMaker

    folder.mkdir(parents=True, exist_ok=True)
    for seed in range(first, first + count):
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
            model.save(folder / f"{seed}.keras")
        except Exception as wrong:
            print(f"seed {seed}: {type(wrong).__name__}: {str(wrong)[:150]!r}")
            continue
        try:
            model.save(folder / f"{seed}.h5")
        except Exception:
            (folder / f"{seed}.h5").unlink(missing_ok=True)
        named = {f"in_{i}": array for i, array in enumerate(arrays)} | {f"out_{i}": y for i, y in enumerate(results)}
        np.savez(folder / f"{seed}.npz", **named)
    print(f"Keras {keras.__version__}: {len(list(folder.glob('*.npz')))} graphs of {count}")


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


def check(folder: Path) -> int:
    """Loads and compares all graphs of a folder; the exit status is 1 if any failed."""
    import layergraph

    failed: set[str] = set()
    graphs = sorted(folder.glob("*.npz"), key=lambda path: int(path.stem))
    for path in graphs:
        arrays = np.load(path)
        inputs = [arrays[f"in_{i}"] for i in range(sum(name.startswith("in_") for name in arrays))]
        wanted = [arrays[f"out_{i}"] for i in range(sum(name.startswith("out_") for name in arrays))]
        for ending in (".keras", ".h5"):
            file = path.with_suffix(ending)
            if not file.exists():
                continue
            try:
                _compare(layergraph.load_model(file), inputs, wanted)
            except Exception:
                failed.add(path.stem)
                print(f"{file}: {traceback.format_exc(limit=-1)[-700:]}", flush=True)
    print(f"{folder}: {len(graphs)} graphs, {len(failed)} mismatches: {sorted(failed)}")
    return 1 if failed else 0


def _compare(model: Any, inputs: list[Any], wanted: list[Any]) -> None:
    results = model.plan().run(dict(zip(model.input_names, inputs, strict=True)))
    for name, got, want in zip(results, results.values(), wanted, strict=True):
        half = any(layer.compute_dtype in ("float16", "bfloat16") for layer in model.walk_layers())
        tolerance = 5e-2 if half else 1e-5
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=f"output '{name}'")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("absl").setLevel(logging.ERROR)
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
    else:
        sys.exit(check(Path(sys.argv[2])))

"""Every model of keras.applications against stock Keras: `python tests/compare_applications.py [NAME ...]`.

Random weights, small images where the model takes them, each file saved by stock Keras and loaded here; every output
must agree to 1e-4 of its largest value. Needs some minutes and several GiB of memory.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from oracles import flat, perturb

TOLERANCE = 1e-4


def builders() -> Iterator[tuple[str, Any]]:
    """Name and constructor of each model, by name."""
    for name in sorted(dir(keras.applications)):
        made = getattr(keras.applications, name)
        if inspect.isfunction(made) and "weights" in inspect.signature(made).parameters:
            yield name, made


def largest_difference(name: str, build: Any, folder: Path) -> tuple[float, float]:
    """Difference to Keras relative to the largest output, and the seconds that loading took."""
    size = {"NASNetLarge": 331, "NASNetMobile": 224}.get(name, 128)
    model = build(weights=None, input_shape=(size, size, 3))
    perturb_slightly(model)
    images = np.random.default_rng(0).uniform(0, 255, (1, *model.input_shape[1:])).astype("float32")
    expected = flat(model.predict_on_batch(images))
    path = folder / f"{name}.keras"
    model.save(path)
    del model
    gc.collect()
    started = time.perf_counter()
    loaded = layergraph.load_model(path)
    seconds = time.perf_counter() - started
    results = loaded.plan().run({loaded.input_names[0]: images})
    path.unlink()
    return max(
        float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
        for got, want in zip(results.values(), expected, strict=True)
    ), seconds


def perturb_slightly(model: Any) -> None:
    """Moves the statistics and scales of normalisation off 0 and 1, which hide a mistake."""
    for layer in model.layers:
        if "Normalization" in type(layer).__name__ and layer.weights:
            perturb(layer)


def main(names: list[str]) -> int:
    """Compares the named models, or all; the exit status is 1 if any differs."""
    warnings.filterwarnings("ignore")
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for name, build in builders():
            if names and name not in names:
                continue
            try:
                difference, seconds = largest_difference(name, build, Path(folder))
            except Exception as error:
                print(f"{name:20} {type(error).__name__}: {str(error)[:300]}", flush=True)
                failed.append(name)
                continue
            print(f"{name:20} {difference:.1e}  loaded in {seconds:.2f} s", flush=True)
            if not difference < TOLERANCE:
                failed.append(name)
            keras.utils.clear_session()
            gc.collect()
    print(f"{len(failed)} mismatches" + (f": {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

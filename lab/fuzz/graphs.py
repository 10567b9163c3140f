"""Compares random graphs with stock Keras: `make -C lab fuzz FUZZ=graphs COUNT=200 SEED=0`.

Each graph is built by stock Keras, saved as `.keras` and as `.h5`, loaded here, and must predict the same; it is also
built here, saved, and opened by stock Keras.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from oracles import assert_close, perturb
from random_graphs import random_inputs, random_model
from runner import Fuzzer, run


def check(seed: int, folder: Path) -> None:
    """Builds, saves, loads and computes the graph of a seed on both sides.

    Raises AssertionError if outputs differ by more than 1e-5, or the error of the side that failed.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    layergraph.clear_session()
    rich = seed % 2 == 1
    model = random_model(keras, seed, rich=rich)
    perturb(model, seed)
    arrays = random_inputs(model, seed)
    given = keras.tree.pack_sequence_as(model._inputs_struct, arrays)
    expected = _flat(model(given, training=False))
    for ending in (".keras", ".h5"):
        path = folder / f"model{ending}"
        model.save(path)
        loaded = layergraph.load_model(path)
        result = loaded.plan().run(dict(zip(loaded.input_names, arrays, strict=True)))
        for got, want in zip(result.values(), expected, strict=True):
            assert_close(got, want, 1e-5)
    ours = random_model(layergraph, seed, rich=rich)
    ours.set_weights(model.get_weights())
    ours.save(folder / "ours.keras")
    reopened = keras.models.load_model(folder / "ours.keras")
    for got, want in zip(_flat(reopened(given, training=False)), expected, strict=True):
        assert_close(got, want, 1e-5)


def _flat(outputs: Any) -> list[np.ndarray]:
    return [output.detach().numpy() for output in keras.tree.flatten(outputs)]


if __name__ == "__main__":
    sys.exit(run(Fuzzer("graphs", "graphs", check)))

"""Compares random graphs with stock Keras: `python tests/fuzz/graphs.py [COUNT [FIRST_SEED]]`.

Each graph is built by stock Keras, saved as `.keras` and as `.h5`, loaded here, and must predict the same; it is also
built here, saved, and opened by stock Keras. A failure prints its seed; `fuzz_graphs.py 1 SEED` replays it.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import layergraph
import numpy as np
from oracles import assert_close, perturb
from random_graphs import random_inputs, random_model


def check_graph(seed: int, folder: Path) -> None:
    """Raises AssertionError, or whatever went wrong, where the graph of that seed is not treated as Keras treats it."""
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


def main(count: int, first: int) -> int:
    """Checks `count` seeds from `first` on; the exit status is 1 if any failed."""
    warnings.filterwarnings("ignore")
    logging.getLogger("absl").setLevel(logging.ERROR)
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(first, first + count):
            try:
                check_graph(seed, Path(folder))
            except Exception:
                failed.append(seed)
                print(f"seed {seed}: {traceback.format_exc(limit=-2)}", flush=True)
            if (seed - first + 1) % 50 == 0:
                print(f"{seed - first + 1} graphs, {len(failed)} mismatches", flush=True)
    print(f"{count} graphs, {len(failed)} mismatches" + (f": seeds {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200, int(sys.argv[2]) if len(sys.argv) > 2 else 0))

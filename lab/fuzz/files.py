"""Changes values of a file's config at random: `make -C lab fuzz FUZZ=files`.

The model loads and runs, or the file is refused with a typed error that names it.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
from layergraph import load_model
from layergraph.errors import LayerGraphError
from runner import Fuzzer, run

VALUES: list[Any] = [
    *(None, True, 0, 1, -1, 3.5, float("nan"), float("inf"), 10**9, 2**63, 10**30, "", "x", "relu", "same", "é\0"),
    *([], [1], [None], [[1, 2], [3, 4]], [10**9, 10**9], {}, {"a": 1}, ["a", 0, 0], [1] * 1000, "a" * 5000),
    {"class_name": "Dense", "config": {"units": 3}},
    {"class_name": "Zeros", "config": {}},
    {"class_name": "Lambda", "config": {}},
    {"class_name": "__keras_tensor__", "config": {}},
    {"class_name": "RandomNormal", "config": {"mean": "x"}},
]


def every_kind() -> keras.Model:
    """One layer of each family."""
    make = keras.layers
    ids, x, image = keras.Input((5,), dtype="int32"), keras.Input((5, 4)), keras.Input((6, 6, 2))
    sequence = make.Bidirectional(make.LSTM(2, return_sequences=True))(make.Embedding(9, 4, mask_zero=True)(ids))
    attended = make.MultiHeadAttention(2, 2)(make.LayerNormalization()(x), sequence)
    steps = make.Conv1D(3, 2, padding="causal", activation="relu")(make.Add()([x, make.Dropout(0.5)(attended)]))
    rows = make.BatchNormalization()(make.Conv2D(3, 3, strides=2, padding="same")(image))
    rows = make.SeparableConv2D(2, 2)(make.UpSampling2D(2)(make.MaxPooling2D()(make.ZeroPadding2D(1)(rows))))
    last = make.GRU(2)(make.TimeDistributed(make.Dense(2, kernel_regularizer="l2"))(steps))
    merged = make.Concatenate()([make.Flatten()(rows), last, make.RNN(make.SimpleRNNCell(2))(x)])
    return keras.Model([ids, x, image], [make.PReLU()(merged), make.Rescaling(0.5)(rows) + 1])


@cache
def stored() -> dict[str, bytes]:
    """The parts of a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        every_kind().save(path)
        with zipfile.ZipFile(path) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def places(config: Any) -> list[tuple[Any, Any]]:
    """Yields every container of the config with each of its keys."""
    found, waiting = [], [config]
    while waiting:
        item = waiting.pop()
        pairs = item.items() if isinstance(item, dict) else enumerate(item) if isinstance(item, list) else ()
        for key, value in list(pairs):
            found.append((item, key))
            waiting.append(value)
    return found


def corrupt(config: Any, rng: random.Random) -> None:
    """Changes, removes or adds a value."""
    everywhere = places(config)
    options = [(item, key) for item, key in everywhere if isinstance(item, dict) and "trainable" in item]
    item, key = rng.choice(options if rng.random() < 0.6 else everywhere)
    how = rng.random()
    if how < 0.8:
        item[key] = json.loads(json.dumps(rng.choice(VALUES)))
    elif how < 0.9 or not isinstance(item, dict):
        del item[key]
    else:
        item[rng.choice(["unknown", "units", "name", "dtype", "class_name"])] = rng.choice(VALUES)


def refused(path: Path) -> LayerGraphError | None:
    """Returns the error for the file; None if it loads and the model runs on ones."""
    try:
        plan = load_model(path).plan()
        shapes = {spec: tuple(2 if n is None else n for n in spec.shape) for spec in plan.input_specs}
        if all(spec.dtype in ("int32", "float32") for spec in shapes):
            plan.run({spec.name: np.ones(shape, spec.dtype) for spec, shape in shapes.items()})
    except LayerGraphError as refusal:
        return refusal
    return None


def check(seed: int, folder: Path) -> str:
    """Raises AssertionError if the error for a seed's file doesn't name it; any other error is a mismatch, too."""
    rng = random.Random(seed)
    config = json.loads(stored()["config.json"])
    corrupt(config, rng)
    with zipfile.ZipFile(folder / "model.keras", "w") as archive:
        for name, content in stored().items():
            archive.writestr(name, json.dumps(config) if name == "config.json" else content)
    refusal = refused(folder / "model.keras")
    assert refusal is None or "model.keras" in str(refusal)
    return "loads" if refusal is None else type(refusal).__name__


if __name__ == "__main__":
    sys.exit(run(Fuzzer("files", "files", check)))

"""Compares models saved here as `.h5` of Keras 2 with tf.keras 2.15: `make -C lab exports PEER=PYTHON`.

PEER is a Python with TensorFlow 2.15. The step `write` saves the models here; `check`, under PEER, opens them. Outputs
must be equal, and training must go on with the losses that it has here.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from half_trained_models import OPTIMIZERS, rows, trained

TOLERANCE = 1e-5
STEPS = 4


def write(folder: Path) -> int:
    """Writes the exports, with what they must give."""
    import layergraph
    from model_files import FIXTURES, numbered
    from random_graphs import random_inputs, random_model

    folder.mkdir(exist_ok=True)
    losses = {}
    for name, optimizer in OPTIMIZERS.items():
        model = trained(layergraph, optimizer)
        model.save(folder / f"train_{name}.h5", generation=2)
        losses[name] = [float(model.train_on_batch(*rows())[0]) for _ in range(STEPS)]
    (folder / "losses.json").write_text(json.dumps(losses))
    for path in sorted(FIXTURES.glob("*.h5")):
        with np.load(path.with_suffix(".npz")) as arrays:
            inputs, outputs = numbered(arrays, "input"), numbered(arrays, "output")
        _export(layergraph.load_model(path), folder / f"predict_{path.stem}", inputs, outputs)
    for seed in range(40):
        model = random_model(layergraph, seed)
        inputs = random_inputs(model, seed)
        outputs = list(model.plan().run(dict(zip(model.input_names, inputs, strict=True))).values())
        _export(model, folder / f"predict_random{seed}", inputs, outputs)
    return 0


def _export(model: Any, path: Path, inputs: list[np.ndarray], outputs: list[np.ndarray]) -> None:
    from layergraph.errors import ConfigError

    try:
        model.save(path.with_suffix(".h5"), generation=2)
    except ConfigError as refusal:
        print(f"{path.name}: {refusal}")
        return
    named = {f"input_{i}": a for i, a in enumerate(inputs)} | {f"output_{i}": a for i, a in enumerate(outputs)}
    np.savez(path.with_suffix(".npz"), **named)


def check(folder: Path) -> int:
    """Opens the exports with tf.keras 2.15; the exit status is 1 if any differs."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf

    differences = {}
    for name, expected in json.loads((folder / "losses.json").read_text()).items():
        model = tf.keras.models.load_model(folder / f"train_{name}.h5")
        losses = [model.train_on_batch(*rows())[0] for _ in range(STEPS)]
        differences[f"train_{name}"] = float(np.abs(np.array(losses) - expected).max())
    for path in sorted(folder.glob("predict_*.h5")):
        model = tf.keras.models.load_model(path, compile=False)
        with np.load(path.with_suffix(".npz")) as arrays:
            inputs = [arrays[f"input_{i}"] for i in range(len(model.inputs))]
            given = (
                inputs[0] if isinstance(model, tf.keras.Sequential) else tf.nest.pack_sequence_as(model.input, inputs)
            )
            results = tf.nest.flatten(model(given))
            wanted = [arrays[f"output_{i}"] for i in range(len(results))]
        differences[path.stem] = max(
            float(np.abs(got.numpy() - want).max()) for got, want in zip(results, wanted, strict=True)
        )
    wrong = {name: difference for name, difference in differences.items() if not difference < TOLERANCE}
    print(f"{len(differences)} exports, {len(wrong)} mismatches" + (f": {wrong}" if wrong else ""))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit({"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2])))

"""The part of `compare_hub.py` that KerasHub runs, on torch, in a Python of its own: `make -C lab hub PEER=PYTHON`.

python lab/proofs/hub_oracle.py make FOLDER     save its models, and their outputs for some arrays
python lab/proofs/hub_oracle.py check FOLDER    open those that were saved again here, and compare the outputs
"""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import keras_hub
import numpy as np
from hub_models import BACKBONES, LAYERS, ROWS, TASKS, TRAINED, WORDS, hub_model, ids, layer_model, outputs_of

#: Largest difference by compute dtype, relative to the largest output.
TOLERANCES = {"float16": 5e-3, "bfloat16": 3e-2, "half": 3e-2}


def write(folder: Path, name: str, model: Any, arrays: dict[str, Any]) -> None:
    """Writes NAME.keras, NAME.h5 and NAME.npz."""
    model.save(folder / f"{name}.keras")
    model.save(folder / f"{name}.h5")
    outputs = {f"output_{i}": y for i, y in enumerate(outputs_of(model, arrays))}
    np.savez(folder / f"{name}.npz", **outputs, **{f"input_{key}": array for key, array in arrays.items()})


def make(folder: Path) -> None:
    """Writes all models."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in LAYERS:
        write(folder, f"layer_{name}", *layer_model(name))
    for name in [*BACKBONES, *TASKS]:
        model, arrays = hub_model(name)
        write(folder, f"model_{name}", model, arrays)
        preset = folder / f"preset_{name}"
        model.save_to_preset(str(preset))
        # What KerasHub itself loads from the folder: its dtype may be another one.
        base = type(model).__mro__[1] if name in TASKS else keras_hub.models.Backbone
        loaded = base.from_preset(str(preset), **({"preprocessor": None} if name in TASKS else {}))
        outputs = {f"output_{i}": y for i, y in enumerate(outputs_of(loaded, arrays))}
        np.savez(folder / f"preset_{name}.npz", **outputs, **{f"input_{key}": array for key, array in arrays.items()})
    train(folder / "training")
    print(
        f"{len(LAYERS)} models of layers, {len(BACKBONES)} backbones and {len(TASKS)} tasks by KerasHub "
        f"{keras_hub.__version__} and Keras {keras.__version__}"
    )


def train(folder: Path) -> None:
    """Trains a text classifier and a masked language model for some steps, and writes their losses."""
    folder.mkdir(exist_ok=True)
    for name in TRAINED:
        keras.utils.clear_session()
        model, arrays = hub_model(name)
        labels = ids(ROWS, 2, high=WORDS) if "mask_positions" in arrays else ids(ROWS, high=2)
        model.save(folder / f"{name}.keras")
        # The same layers as a plain model: a task's own `fit` would preprocess its data.
        model = keras.Model(model.input, model.output)
        model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        losses = model.fit(arrays, labels, batch_size=ROWS, epochs=8, shuffle=False, verbose=0).history["loss"]
        given = {f"input_{key}": array for key, array in arrays.items()}
        np.savez(folder / f"{name}.npz", labels=labels, losses=losses, **given)


def check(folder: Path) -> int:
    """Compares what was saved again. Returns the number of failures."""
    failed = 0
    files = sorted((folder / "again").glob("*.keras"))
    for file in files:
        with np.load(folder / f"{file.stem}.npz") as stored:
            arrays = {key.removeprefix("input_"): stored[key] for key in stored.files if key.startswith("input_")}
            want = [stored[f"output_{i}"] for i in range(len(stored.files) - len(arrays))]
        try:
            model = keras.saving.load_model(file)
            got = outputs_of(model, arrays)
            most = next((t for word, t in TOLERANCES.items() if word in file.stem), 1e-5)
            worst = max(float(np.abs(a - b).max() / max(1, np.abs(b).max())) for a, b in zip(got, want, strict=True))
            problem = "" if worst <= most else f"differs by {worst:.1e}"
        except Exception as error:
            problem = f"{type(error).__name__}: {str(error)[:300]}"
        if problem:
            failed += 1
            print(f"{file.name}: {problem}")
    print(f"{len(files)} files that were saved here, {failed} not opened by KerasHub with the same numbers")
    return failed


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    made = {"make": make, "check": check}[sys.argv[1]](Path(sys.argv[2]))
    sys.exit(1 if made else 0)

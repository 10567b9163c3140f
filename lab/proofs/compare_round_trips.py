"""Compares how compiled models train on after a round trip: `make -C lab compiled-round-trips PEER=PYTHON`.

PEER is a Python from 3.7 on, with tf.keras or Keras 3. The three steps, each also by itself with
PYTHONPATH=lab:lab/generators:lab/proofs:tests:tests/support before it:

    PYTHON lab/proofs/compare_round_trips.py make FOLDER [WORD]       # with PEER; WORD: only cases named so
    python lab/proofs/compare_round_trips.py pass FOLDER [FORMAT]     # here
    PYTHON lab/proofs/compare_round_trips.py check FOLDER [FORMAT]    # with PEER; .h5 or .keras: only these files

`make` trains each model for an epoch, saves it in each of its formats, and trains it on. `pass` loads each file, saves
it in the format that it came in, trains the model for an epoch, and saves it again. `check` opens both files and trains
them on: logs must equal those of the model that never left its Keras, if the file that this Keras itself saved goes on
so. With a FORMAT (`keras3`, `keras2_h5`, ...) `pass` saves files in it, and `check`, with a Keras of that format, opens
them.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from compiled_cases import cases
from compiled_models import rows

EPOCHS = 3
#: Largest difference of a log, relative to 1 + its value. Layers that compute in float16 have three digits.
TOLERANCE = 1e-4
HALF = 5e-3
FIT: dict[str, Any] = {"batch_size": 7, "shuffle": False, "verbose": 0}


def stock() -> Any:
    """tf.keras where there is TensorFlow 2.15, else Keras 3 on torch."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ.setdefault("KERAS_BACKEND", "torch")
    logging.getLogger("absl").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    try:
        import tensorflow as tf
    except ModuleNotFoundError:
        import keras

        return keras
    tf.get_logger().setLevel("ERROR")
    # Graphs take longer to make than to run here, and in 2.15's graphs Nadam counts wrongly.
    if hasattr(tf.config, "run_functions_eagerly"):
        tf.config.run_functions_eagerly(True)
    return tf.keras


def seed(keras: Any) -> None:
    """Makes first weights the same in each run."""
    if hasattr(keras.utils, "set_random_seed"):
        keras.utils.set_random_seed(1)
        return
    import tensorflow as tf

    np.random.seed(1)
    tf.compat.v1.set_random_seed(1)


def fitted(model: Any, epochs: int) -> dict[str, list[float]]:
    """Logs of so many epochs."""
    x, y = rows(model)
    history = model.fit(x if len(x) > 1 else x[0], y if len(y) > 1 else y[0], epochs=epochs, **FIT).history
    return {name: np.asarray(values, "float64").tolist() for name, values in history.items()}


def formats_of(keras: Any) -> tuple[str, ...]:
    """The formats that it has; before 2.12 `.keras` is another name for an `.h5` or a folder."""
    # From 2.13 on it isn't told there.
    version = getattr(keras, "__version__", "2.13").split("-")[0]
    return ("h5",) if version.startswith("2.") and int(version.split(".")[1]) < 12 else ("keras", "h5")


def make(folder: Path, part: str = "") -> int:
    """Writes files of the stock Keras, and the logs of what became of their models."""
    keras = stock()
    for case in cases(keras):
        if part not in case.name:
            continue
        keras.backend.clear_session()
        seed(keras)
        path = folder / case.name
        try:
            model = case.build(keras)
            arguments = case.arguments(keras)
            trains = arguments is not None and "loss" in arguments
            if arguments is not None:
                model.compile(**arguments)
            if trains:
                fitted(model, 1)
        except Exception as refusal:
            print(f"{case.name}: refused by stock Keras: {type(refusal).__name__} {str(refusal)[:80]!r}")
            continue
        path.mkdir(parents=True, exist_ok=True)
        for ending in formats_of(keras):
            try:
                model.save(path / f"stock.{ending}")
            except Exception as refusal:
                (path / f"stock.{ending}").unlink()
                print(f"{case.name}: stock Keras writes no .{ending}: {str(refusal)[:80]}")
        (path / "logs.json").write_text(json.dumps(fitted(model, EPOCHS) if trains else {}))
        x, _ = rows(model)
        if not trains:
            np.save(path / "outputs.npy", np.asarray(model.predict(x if len(x) > 1 else x[0], verbose=0)[0]))
    return 0


def pass_through(folder: Path, name: str = "") -> int:
    """Loads, saves, trains and saves; the exit status is 1 if something is refused."""
    import layergraph

    refused = 0
    end = f"_as_{name}" if name else ""
    for path in sorted(folder.glob("*/stock.*")):
        try:
            model = layergraph.load_model(path)
            chosen = model.saved_format(name)
            model.save(path.with_name(f"passed{end}{chosen.suffix}"), chosen.generation)
            if json.loads((path.parent / "logs.json").read_text()):
                fitted(model, 1)
                model.save(path.with_name(f"trained{end}{chosen.suffix}"), chosen.generation)
        except Exception:
            refused += 1
            print(f"{path.parent.name} {path.suffix}: {traceback.format_exc(limit=-1)}")
    print(f"{refused} files refused here")
    return 1 if refused else 0


def differences(got: dict[str, list[float]], want: dict[str, list[float]], skipped: int) -> dict[str, float]:
    """By log: the largest difference, relative to 1 + its size."""
    found = {}
    for name in {*got, *want}:
        have, ought = np.asarray(got.get(name, [])), np.asarray(want.get(name, []))[skipped:]
        same = have.shape == ought.shape
        found[name] = float(np.max(np.abs(have - ought) / (1 + np.abs(ought)))) if same else np.inf
    return found


def check_one(keras: Any, path: Path) -> str | None:
    """What differs, in words; None if nothing does."""
    want = json.loads((path.parent / "logs.json").read_text())
    keras.backend.clear_session()
    model = keras.models.load_model(path)
    if not want:
        x, _ = rows(model)
        got = np.asarray(model.predict(x if len(x) > 1 else x[0], verbose=0)[0])
        apart = float(np.abs(got - np.load(path.parent / "outputs.npy")).max())
        return None if apart < TOLERANCE else f"outputs differ by {apart:.1e}"
    done = int(path.stem.startswith("trained"))
    limit = HALF if model.name == "half" else TOLERANCE
    logs = differences(fitted(model, EPOCHS - done), want, done)
    wrong = {name: value for name, value in logs.items() if not value < limit}
    return ", ".join(f"{name}: {value:.1e}" for name, value in wrong.items()) or None


def _checked(keras: Any, path: Path) -> str | None:
    try:
        return check_one(keras, path)
    except Exception as error:
        return f"{type(error).__name__}: {error}".replace("\n", " ")[:300]


def check(folder: Path, suffixes: tuple[str, ...], name: str = "") -> int:
    """Opens what came back and trains it on; the exit status is 1 if a log differs."""
    keras = stock()
    total = failed = 0
    stems = [f"{stem}_as_{name}" if name else stem for stem in ("passed", "trained")]
    for path in sorted(path for path in folder.glob("*/*.*") if path.suffix in suffixes and path.stem in stems):
        total += 1
        wrong = _checked(keras, path)
        if wrong and name:
            failed += 1
            print(f"{path.parent.name}/{path.name}: {wrong}", flush=True)
        elif wrong:
            # An `.h5` of either Keras loses the state of some optimizers.
            own = _checked(keras, path.with_name(f"stock{path.suffix}"))
            failed += own is None
            also = f"\n    the stock file too: {own}" if own else ""
            print(f"{path.parent.name}/{path.name}: {wrong}{also}", flush=True)
    print(f"{total} files, {failed} mismatches")
    return 1 if failed else 0


if __name__ == "__main__":
    role, folder, *endings = sys.argv[1:]
    suffixes = tuple(end for end in endings if end.startswith("."))
    names = [end for end in endings if end not in suffixes]
    roles = {
        "make": lambda where: make(where, *names),
        "pass": lambda where: pass_through(where, *names),
        "check": lambda where: check(where, suffixes or (".keras", ".h5"), *names),
    }
    sys.exit(roles[role](Path(folder)))

"""Models of tf.keras 2.15 train on as they did there, where Keras 3 computes otherwise.

The cases, with what 2.15 made of them, are written by tests/fixtures/make_keras2_training.py.
"""

import json
from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph.config.training_rules import KERAS3_RULES
from layergraph.training.callbacks.table import callback

FOLDER = Path(__file__).parents[2] / "fixtures" / "keras2_training"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
#: 2.15 logs float32 sums.
TOLERANCE = 2e-5


def trained(name, rules=None):
    """The largest difference from 2.15 in logs and weights, of a model that goes on by its own, or other, rules."""
    case = json.loads((FOLDER / f"{name}.json").read_text())
    arrays = np.load(FOLDER / f"{name}.npz")
    model = layergraph.load_model(FOLDER / f"{name}.h5")
    if rules is not None:
        model.training_rules = rules
    if case["compile"]:
        model.compile(**case["compile"])
    x, y = ([arrays[key] for key in sorted(arrays.files) if key[0] == part and key[1:].isdigit()] for part in "xy")
    weights = arrays["weights"] if "weights" in arrays.files else None
    called = [callback({"class_name": kind, "config": options}) for kind, options in case["callbacks"].items()]
    given = (x if len(x) > 1 else x[0], y if len(y) > 1 else y[0])
    logs = model.fit(*given, verbose=0, sample_weight=weights, callbacks=called, **case["fit"]).history
    # Keras 3 logs a metric as its name is spelled.
    logs = {key.lower() if key[0].isupper() else key: values for key, values in logs.items()}
    after = [arrays[key] for key in sorted(arrays.files) if key.startswith("after")]
    pairs = [*((logs.get(key, []), values) for key, values in case["logs"].items())]
    pairs += zip(model.get_weights(), after, strict=True)
    return max(difference(own, expected) for own, expected in pairs)


def difference(own, expected):
    own, expected = np.asarray(own, np.float64), np.asarray(expected, np.float64)
    if own.shape != expected.shape:
        return np.inf
    return float(np.max(np.abs(own - expected) / (1 + np.abs(expected))))


@pytest.mark.parametrize("name", CASES)
def test_trains_on_as_in_keras_2(name):
    assert trained(name) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_keras_3_would_train_otherwise(name):
    """So that each case needs its rule."""
    assert trained(name, KERAS3_RULES) > 20 * TOLERANCE

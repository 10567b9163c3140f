"""Models of Keras 1.2 to 2.3, and of tf.keras up to 2.10, train on as they did there, with the optimizer's state.

The cases are written by lab/fixtures/make_early_training.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.config.keras_versions import generation_of
from layergraph.training.frozen_cache import FrozenCache

FOLDER = Path(__file__).parents[2] / "fixtures" / "early_training"
CASES = sorted(path.stem for path in FOLDER.glob("*.json"))
TOLERANCE = 2e-5
NAMES = {"acc": "accuracy", "mean_absolute_error": "mae"}


@pytest.mark.parametrize("name", CASES)
def test_trains_on_as_in_its_release(name: str) -> None:
    arrays = np.load(FOLDER / f"{name}.npz")
    expected = {NAMES.get(key, key): log for key, log in json.loads((FOLDER / f"{name}.json").read_text()).items()}
    model = layergraph.load_model(FOLDER / f"{name}.h5")
    logs = model.fit(arrays["x"], arrays["y"], batch_size=4, epochs=2, shuffle=False, verbose=0).history
    assert logs.keys() == expected.keys()
    for key, values in logs.items():
        np.testing.assert_allclose(values, expected[key], TOLERANCE, TOLERANCE, err_msg=key)
    after = [arrays[key] for key in sorted(arrays.files, key=lambda key: (len(key), key)) if key.startswith("after")]
    for own, value in zip(model.get_weights() if after else [], after, strict=True):
        np.testing.assert_allclose(own, value, TOLERANCE, TOLERANCE)
    np.testing.assert_allclose(model.predict(arrays["x"], verbose=0), arrays["predicted"], TOLERANCE, TOLERANCE)


def test_what_depends_on_other_rows_of_a_frozen_layer_is_not_kept() -> None:
    """In standalone Keras, a frozen BatchNormalization trains with the batch's statistics."""
    x = np.random.default_rng(3).standard_normal((9, 4)).astype("float32")
    results = []
    for release, cache in (("2.2.4", False), ("2.2.4", FrozenCache()), ("2.15.0", False)):
        entry = layergraph.Input((4,))
        norm = layers.BatchNormalization(name="norm")(layers.Dense(5, name="dense")(entry))
        model = layergraph.Model(entry, layers.Dense(1, kernel_initializer="ones", name="out")(norm))
        model.set_weights([np.full(weight.shape, 0.3, "float32") for weight in model.weights])
        for name in ("dense", "norm"):
            model.get_layer(name).trainable = False
        model.training_rules = generation_of(release, {}, "tensorflow").training
        model.compile("sgd", "mse")
        history = model.fit(x, x[:, :1], batch_size=4, epochs=3, shuffle=False, verbose=0, cache_frozen=cache).history
        results.append(history["loss"])
    assert results[0] == results[1]
    assert results[0] != results[2]

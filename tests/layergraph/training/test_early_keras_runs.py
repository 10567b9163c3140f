"""Models of Keras 1.2 to 2.3, and of tf.keras up to 2.10, train on as they did there, with the optimizer's state.

The cases are written by tests/fixtures/make_early_training.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import layergraph
import numpy as np
import pytest

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

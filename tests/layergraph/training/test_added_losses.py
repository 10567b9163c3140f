"""Losses of tensors, which tf.keras stores as layers of the model (`Model.add_loss`), by tf.keras 2.15's numbers.

The cases are written by lab/fixtures/make_keras2_added_losses.py.
"""

from __future__ import annotations

from pathlib import Path

import layergraph
import numpy as np
import pytest
from layergraph.errors import ConfigError
from layergraph.models import clone_model
from oracles import assert_close

FOLDER = Path(__file__).parents[2] / "fixtures" / "keras2_added_losses"
CASES = ("beside", "alone", "nested")


@pytest.mark.parametrize("saved_again", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_trains_on_added_losses_as_in_keras_2(name: str, saved_again: bool, tmp_path: Path) -> None:
    model = layergraph.load_model(FOLDER / f"{name}.h5")
    if saved_again:
        model.save(tmp_path / "again.h5", generation=2)
        model = layergraph.load_model(tmp_path / "again.h5")
    arrays = np.load(FOLDER / f"{name}.npz")
    assert_close(model.predict(arrays["x"], verbose=0), arrays["predicted"])
    logs = model.fit(arrays["x"], arrays["y"], epochs=2, batch_size=4, shuffle=False, verbose=0).history
    np.testing.assert_allclose(logs["loss"], arrays["loss"], rtol=2e-5)
    layers = {layer.name: layer for layer in model.walk_layers()}
    for key in set(arrays.files) - {"x", "y", "predicted", "loss"}:
        layer, _, index = key.rpartition("_")
        assert_close(layers[layer].get_weights()[int(index)], arrays[key], 2e-5)


def test_predictions_compute_no_loss() -> None:
    model = layergraph.load_model(FOLDER / "beside.h5")
    assert {step.call.layer.name for step in model.plan().steps} == {"hidden", "head"}


def test_a_file_of_keras_3_cannot_have_them(tmp_path: Path) -> None:
    model = layergraph.load_model(FOLDER / "beside.h5")
    with pytest.raises(ConfigError, match="Keras 3 lacks layer 'add_metric': AddMetric; layer 'add_loss': AddLoss"):
        model.save(tmp_path / "model.keras")


def test_clones_have_them() -> None:
    model = layergraph.load_model(FOLDER / "beside.h5")
    arrays = np.load(FOLDER / "beside.npz")
    clone = clone_model(model, clone_function=lambda layer: type(layer).from_config(layer.get_config()))
    clone.set_weights(model.get_weights())
    clone.compile("sgd", "mse")
    expected = model.evaluate(arrays["x"], arrays["y"], verbose=0)
    assert clone.evaluate(arrays["x"], arrays["y"], verbose=0) == pytest.approx(expected, rel=1e-6)

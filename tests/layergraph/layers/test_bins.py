"""Discretization of TensorFlow 2.4 and 2.5: values equal to boundaries, infinity in a config, stored boundaries."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import keras
import layergraph
import numpy as np
import pytest
from layergraph import layers
from layergraph.errors import CorruptFileError

GENERATIONS = Path(__file__).parents[2] / "fixtures" / "generations"
FILES = [GENERATIONS / f"{release}_discretization_counts.h5" for release in ("2.4", "2.5")]
#: Values of the boundaries [0, 2, 5] and beside them, infinities and NaN.
X = np.array([[-1, 0], [1e-7, 2], [2.5, 5], [5.5, np.inf], [-np.inf, np.nan]], "float32")
#: TensorFlow 2.4.4's and 2.5.3's bins of them.
BINS = [[0, 0], [1, 1], [2, 2], [3, 3], [0, 0]]


def layer_of(path: Path) -> Any:
    return next(layer for layer in layergraph.load_model(path).layers if type(layer) is layers.Discretization)


def edited(path: Path, folder: Path, old: str, new: str) -> Path:
    """A copy of a file with other text in its config."""
    copy = folder / "edited.h5"
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        text = file.attrs["model_config"]
        text = text.decode() if isinstance(text, bytes) else text
        assert old in text
        file.attrs["model_config"] = text.replace(old, new)
    return copy


def stored_config(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        config: dict[str, Any] = json.loads(file.attrs["model_config"])["config"]["layers"][1]["config"]
    return config


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_value_that_equals_a_boundary_is_in_the_lower_bin(path: Path, tmp_path: Path) -> None:
    layer = layer_of(path)
    assert layer(X).tolist() == BINS
    assert layer(X).dtype == layers.Discretization([0.0])(X).dtype
    model = layergraph.load_model(path)
    for name, generation in (("again.h5", 2), ("again3.h5", 3), ("again.keras", 3)):
        model.save(tmp_path / name, generation)
        assert layer_of(tmp_path / name)(X).tolist() == BINS, name
    # Keras 3 has no such rule, but the same boundaries.
    for name in ("again.keras", "again3.h5"):
        theirs: Any = keras.models.load_model(tmp_path / name)
        assert theirs.predict(np.array([[-1, 1], [3, 6]]), verbose=0).tolist() == [[0, 1], [2, 3]]


def test_the_infinity_after_the_last_boundary_is_left_out(tmp_path: Path) -> None:
    assert stored_config(FILES[0])["bins"] == [0.0, 2.0, 5.0, np.inf]
    # A model that is loaded and saved again by TensorFlow 2.4 has it twice.
    twice = edited(FILES[0], tmp_path, "Infinity", "Infinity, Infinity")
    assert layer_of(twice).bin_boundaries == (0.0, 2.0, 5.0)
    assert layer_of(twice)(X).tolist() == BINS
    layergraph.load_model(twice).save(tmp_path / "again.h5")
    # TensorFlow 2.4 appends it when it loads the file.
    assert stored_config(tmp_path / "again.h5")["bins"] == [0.0, 2.0, 5.0]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("5.0, Infinity", "Infinity, 5.0", "Infinity"),
        ("5.0, Infinity", "5.0, -Infinity", "-Infinity"),
        ("5.0, Infinity", "NaN, Infinity", "NaN"),
        ("5.0, Infinity", "5.0, [Infinity]", "Infinity"),
        ("5.0, Infinity", "5.0, 1e999", "1e999"),
        ('"bins": [', '"epsilon": Infinity, "bins": [', "Infinity"),
        ('"bins": [', '"bin_boundaries": [', "Infinity"),
        ('"class_name": "Discretization"', '"class_name": "Rescaling"', "Infinity"),
        ('"batch_input_shape": [null, 2]', '"batch_input_shape": [null, Infinity]', "Infinity"),
    ],
)
def test_other_numbers_must_be_finite(old: str, new: str, found: str, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError, match=f"has the (value|number) {found}, expected finite numbers"):
        layergraph.load_model(edited(FILES[0], tmp_path, old, new))


def test_boundaries_that_were_adapted_are_a_weight(tmp_path: Path) -> None:
    path = edited(FILES[1], tmp_path, '[0.0, 2.0, 5.0], "num_bins": null', 'null, "num_bins": 4')
    bounds = np.array([-0.5, 0.25, 3, np.inf], "float32")
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file["model_weights"].visit(names.append)
        file["model_weights"][next(name for name in names if name.endswith("bins:0"))][...] = bounds
    expected = np.where(np.isnan(X), 0, np.searchsorted(bounds, X, side="left"))
    assert layer_of(path)(X).tolist() == expected.tolist()
    layergraph.load_model(path).save(tmp_path / "again.keras")
    assert layer_of(tmp_path / "again.keras")(X).tolist() == expected.tolist()
    theirs: Any = keras.models.load_model(tmp_path / "again.keras")
    assert theirs.predict(np.array([[-1, 0], [1, 6]]), verbose=0).tolist() == [[0, 1], [2, 3]]

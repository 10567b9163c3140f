"""Files of several releases of TensorFlow and Keras 3 give the numbers of that release, also when saved again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import keras
import layergraph
import numpy as np
import pytest
from layergraph.config.keras_versions import generation_of
from layergraph.errors import ConfigError
from model_files import check_fixture, numbered
from oracles import assert_close

FILES = sorted((Path(__file__).parents[2] / "fixtures" / "generations").glob("*.[hk]*"))
#: Keras 3 has no such computation, or none since 3.14, and within a Sequential or a nested model no masks as arguments.
ONLY_EARLIER = (
    *(
        "broadcast",
        "cropping",
        "hashing",
        "randomcrop",
        "spectralnormalization",
        "timedistributed",
        "lstm_in_sequential",
    ),
    *(
        "sequential_of_a_float",
        "model_of_a_float",
        "bidirectional",
        "maxout",
        "highway",
        "words",
        *("discretization_counts", "from_a_state", "query_mask"),
    ),
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_give_the_numbers_of_their_release(path: Path, tmp_path: Path) -> None:
    model = check_fixture(path)
    # An .h5 holds no vocabulary.
    for suffix in (".keras", ".h5") if path.suffix == ".h5" else (".keras",):
        again = tmp_path / f"again{suffix}"
        if path.stem == "2.0_masked_lstm_in_sequential" and suffix == ".keras":
            with pytest.raises(ConfigError, match="a call without the mask of its input"):
                model.save(again)
            continue
        model.save(again)
        shutil.copy(path.with_suffix(".npz"), again.with_suffix(".npz"))
        check_fixture(again)


def test_a_config_of_keras_3_beside_weights_of_keras_2(tmp_path: Path) -> None:
    """Its text has no version, and the weights that of their Keras."""
    whole = FILES[0].parents[1] / "keras2" / "layer_node.h5"
    (tmp_path / "model.json").write_text(layergraph.load_model(whole).to_json())
    shutil.copy(whole.with_suffix(".npz"), tmp_path / "model.npz")
    with h5py.File(whole) as file, h5py.File(tmp_path / "model.h5", "w") as weights:
        stored = file["model_weights"]
        for name in stored:
            stored.copy(name, weights)
        weights.attrs.update({**stored.attrs, "keras_version": "2.15.0", "backend": "tensorflow"})
    assert check_fixture(tmp_path / "model.json").keras_version is None


@pytest.mark.filterwarnings("ignore:.*does not support masking.*:UserWarning")
@pytest.mark.parametrize(
    "path", [path for path in FILES if not any(word in path.stem for word in ONLY_EARLIER)], ids=lambda path: path.stem
)
def test_keras_3_opens_what_is_saved_of_them(path: Path, tmp_path: Path) -> None:
    layergraph.load_model(path).save(tmp_path / "again.keras")
    model: Any = keras.models.load_model(tmp_path / "again.keras")
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
    given = inputs if len(inputs) > 1 else inputs[0]
    outputs = model.predict(given, verbose=0)
    for got, want in zip(outputs if isinstance(outputs, list) else [outputs], expected, strict=True):
        assert_close(got, want)


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("ReLU", {"2.2.4-tf": "none", "2.4.0": "none", "2.5.0": None, "2.15.0": None, "2.3.1": None}),
        ("Softmax", {"2.2.4-tf": "passed", "2.3.0-tf": "passed", "2.5.0": None, "2.3.1": "passed"}),
        ("MultiHeadAttention", {"2.4.0": "none", "2.9.0": "none", "2.10.0": None}),
        ("Identity", {"2.15.0": "none", "3.0.0": None}),
        ("*", {"2.15.0": None, "3.4.1": "own", "3.5.0": "own_uncast", "3.10.0": "own_uncast"}),
        ("*", {"3.11.0": "uncast", "3.13.2": "uncast", "3.14.0": None}),
    ],
)
def test_the_release_decides_what_layers_do_with_masks(name: str, uses: dict[str, str | None]) -> None:
    for version, use in uses.items():
        assert generation_of(version, {}).rules.get(name, {}).get("mask_use") == use, version

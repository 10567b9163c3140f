"""Files of multi-backend Keras, 1.2 to 2.3 on TensorFlow and Theano, give the numbers of the Keras that wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import layergraph
import numpy as np
import pytest
from layergraph.errors import ModelFileError
from model_files import check_fixture

FOLDER = Path(__file__).parents[2] / "fixtures" / "old_keras"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.h5")), ids=lambda path: path.stem)
def test_files_of_old_keras_give_its_numbers(path: Path) -> None:
    check_fixture(path)


DENSE = {"class_name": "Dense", "config": {"name": "d", "output_dim": 2, "batch_input_shape": [None, 3]}}


@pytest.mark.parametrize(
    "second",
    [
        {"class_name": "Dense", "config": {"name": "e", "output_dim": 2}},
        {"class_name": "Dense", "config": {"output_dim": 2, "batch_input_shape": [None, 3]}},
    ],
    ids=["without a shape", "without a name"],
)
def test_branches_that_are_no_graph_are_refused(second: dict[str, Any], tmp_path: Path) -> None:
    branches = [{"class_name": "Sequential", "config": [layer]} for layer in (DENSE, second)]
    merge = {"class_name": "Merge", "config": {"name": "m", "mode": "sum", "layers": branches}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": [merge]})
        file.attrs["keras_version"] = "1.2.2"
        file.create_group("model_weights").attrs["layer_names"] = np.array([], "S1")
    with pytest.raises(ModelFileError, match="Merge"):
        layergraph.load_model(tmp_path / "m.h5")

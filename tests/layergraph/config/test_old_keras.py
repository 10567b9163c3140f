"""Files of multi-backend Keras, 1.2 to 2.3 on TensorFlow and Theano, give the numbers of the Keras that wrote them."""

from __future__ import annotations

from pathlib import Path

import layergraph
import numpy as np
import pytest
from model_files import numbered
from oracles import assert_close

FOLDER = Path(__file__).parents[2] / "fixtures" / "old_keras"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.h5")), ids=lambda path: path.stem)
def test_files_of_old_keras_give_its_numbers(path: Path) -> None:
    model = layergraph.load_model(path)
    with np.load(path.with_suffix(".npz")) as arrays:
        inputs, expected = numbered(arrays, "input"), numbered(arrays, "output")
    result = model.plan().run(dict(zip(model.input_names, inputs, strict=True)))
    assert len(result) == len(expected)
    for got, want in zip(result.values(), expected, strict=True):
        assert_close(got, want)

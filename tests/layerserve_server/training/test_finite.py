"""Weights that training has made NaN or infinite are named; what the file had before stays as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layergraph import Input, Model, layers, load_model
from layerserve_server.errors import NotTrainableError
from layerserve_server.training.finite import check_finite, not_finite

NAN, INF = float("nan"), float("inf")


@pytest.fixture(name="base")
def _base(tmp_path: Path) -> Path:
    """A file whose bias masks a class with -inf, and has a NaN that no gradient reaches."""
    x = Input((2,), name="x")
    model = Model(x, layers.Dense(4, name="y")(layers.BatchNormalization(name="norm")(x)))
    model.save(tmp_path / "plain.keras")
    model.get_layer("y").set_weights([np.ones((2, 4)), np.array([0.0, -INF, NAN, 1.0])])
    model.save(tmp_path / "model.keras")
    return tmp_path / "model.keras"


def changed(path: Path, layer: str, weight: int, value: Any) -> Any:
    model = load_model(path)
    model.get_layer(layer).weights[weight].assign(np.array(value, "float32"))
    return model


FOUND = {
    "nan": ("y", 0, [[1, 1, 1, 1], [1, NAN, 1, NAN]], "weight 'y/kernel' isn't finite: 2 of 8"),
    "infinite": ("y", 1, [INF, -INF, NAN, 1], "weight 'y/bias' isn't finite: 1 of 4"),
    "another sign": ("y", 1, [0, INF, NAN, 1], "weight 'y/bias' isn't finite: 1 of 4"),
    "nan for a mask": ("y", 1, [0, NAN, NAN, 1], "weight 'y/bias' isn't finite: 1 of 4"),
    "statistics": ("norm", 3, [INF, 1], "weight 'norm/moving_variance' isn't finite: 1 of 2"),
    "as before": ("y", 1, [5, -INF, NAN, 2], ""),
    "fewer": ("y", 1, [5, 0, 0, 2], ""),
}


@pytest.mark.parametrize("case", FOUND)
def test_what_training_has_made_infinite_is_named(base: Path, case: str) -> None:
    layer, weight, value, text = FOUND[case]
    model = changed(base, layer, weight, value)
    text += " values are NaN or infinite" * bool(text)
    assert not_finite(model, base) == text
    if not text:
        check_finite(model, base)
        return
    with pytest.raises(NotTrainableError) as refused:
        check_finite(model, base)
    assert str(refused.value) == f"{text}; so the model isn't published"


def test_the_file_is_read_only_if_there_is_something_to_compare(base: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.keras"
    assert not_finite(load_model(plain), tmp_path / "missing.keras") == ""
    assert not_finite(load_model(base), plain).startswith("weight 'y/bias' isn't finite: 2 of 4")

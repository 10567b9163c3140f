"""Layers of keras.applications, in entire models, loaded from files and saved to files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import layergraph
import numpy as np
import pytest
import torch
from layergraph.functional.call_context import CallContext
from layergraph.layers import StochasticDepth
from oracles import assert_close, keras, perturb
from served import served

from keras.src.applications.convnext import LayerScale as StockLayerScale  # isort: skip
from keras.src.applications.convnext import StochasticDepth as StockStochasticDepth  # isort: skip
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer as StockCustomScaleLayer  # isort: skip


def scaled(x: Any) -> Any:
    return StockLayerScale(0.5, 4)(x)


def thinned(x: Any) -> Any:
    return StockStochasticDepth(0.3)(x)


def summed(x: Any) -> Any:
    return StockCustomScaleLayer(0.17)([x, keras.layers.Dense(4)(x)])


@pytest.mark.parametrize(
    ("class_name", "build"), [("LayerScale", scaled), ("StochasticDepth", thinned), ("CustomScaleLayer", summed)]
)
def test_files_with_them_load_and_open_again(class_name: str, build: Any, tmp_path: Path) -> None:
    entry = keras.Input((3, 4))
    model = keras.Model(entry, build(entry))
    perturb(model)
    x = np.random.default_rng(0).standard_normal((5, 3, 4)).astype("float32")
    expected = model.predict_on_batch(x)
    model.save(tmp_path / "theirs.keras")
    loaded = layergraph.load_model(tmp_path / "theirs.keras")
    assert class_name in {type(layer).__name__ for layer in loaded.layers}
    (got,) = served(loaded, x)
    assert_close(got, expected)
    loaded.save(tmp_path / "ours.keras")
    assert_close(keras.models.load_model(tmp_path / "ours.keras").predict_on_batch(x), expected)


def test_stochastic_depth_drops_whole_rows_in_training() -> None:
    layer = StochasticDepth(0.25)
    x = torch.ones(4000, 2, 3)
    y = layer.forward(CallContext(training=True, generator=torch.Generator().manual_seed(0)), None, x)
    kept = y[:, 0, 0] > 0
    assert torch.equal(y, kept[:, None, None] * torch.full_like(x, 1 / 0.75))
    assert abs(float(kept.float().mean()) - 0.75) < 0.03

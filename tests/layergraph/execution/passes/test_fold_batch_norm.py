"""Batch normalisation as one operation of a traced graph has the numbers of several operations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from layergraph import Input, Model, layers
from layergraph.execution.engines.exported_graph import ExportedGraph
from layergraph.layers.normalization.batch import BatchNormalization
from served import reference


def graph(model: Model, shape: tuple[int, ...]) -> ExportedGraph:
    samples = [np.random.default_rng(0).standard_normal((rows, *shape)).astype("float32") for rows in (2, 3)]
    return ExportedGraph(model.plan().inference_program(packed=False, joined=True), [samples[0]], [samples[1]], 1)


def shaken(layer: BatchNormalization, variance: float = 1.0) -> None:
    rng = np.random.default_rng(1)
    for weight in layer.weights:
        values = rng.uniform(0.5, 1.5, weight.shape) * (variance if "variance" in weight.name else 1)
        weight.assign(values.astype("float32"))


@pytest.mark.parametrize(
    ("shape", "axis", "options"),
    [
        ((6,), -1, {}),
        ((5, 6), -1, {"scale": False}),
        ((4, 5, 6), -1, {"center": False, "epsilon": 0.01}),
        ((4, 5, 6), 1, {}),
        ((4, 5, 6), 2, {}),
    ],
)
def test_one_operation_gives_the_numbers_of_eager_torch(shape: tuple[int, ...], axis: int, options: dict) -> None:
    entry = Input(shape)
    layer = layers.BatchNormalization(axis=axis, **options)
    model = Model(entry, layers.Activation("relu")(layer(entry)))
    shaken(layer)
    source = graph(model, shape)
    assert len(source.graph.graph.findAllNodes("aten::batch_norm")) == 1
    x = np.random.default_rng(2).standard_normal((4, *shape)).astype("float32")
    with torch.no_grad():
        (got,) = source.graph(torch.from_numpy(x))
    np.testing.assert_allclose(got.numpy(), reference(model, x)[0], rtol=1e-5, atol=1e-5)


def test_large_factors_keep_subtracting_the_mean_first() -> None:
    entry = Input((6,))
    layer = layers.BatchNormalization(epsilon=0.0)
    model = Model(entry, layer(entry))
    shaken(layer, variance=1e-4)
    assert not graph(model, (6,)).graph.graph.findAllNodes("aten::batch_norm")


@pytest.mark.parametrize(("mean", "whole"), [(15.0, 1), (16.0, 0), (17.0, 0), (-17.0, 0)])
def test_large_summands_do_too(mean: float, whole: int) -> None:
    entry = Input((1,))
    layer = layers.BatchNormalization(epsilon=0.0)
    model = Model(entry, layer(entry))
    layer.set_weights([np.full(1, value, "float32") for value in (1, 0, mean, 1)])
    assert len(graph(model, (1,)).graph.graph.findAllNodes("aten::batch_norm")) == whole


class Doubled(BatchNormalization):
    """A plugin's normalisation."""

    def forward(self, run: Any, w: Any, x: Any, mask: Any = None) -> Any:
        return super().forward(run, w, x, mask) * 2


@pytest.mark.parametrize("layer", [Doubled(), BatchNormalization(dtype="float64")], ids=["plugin", "another type"])
def test_others_stay_as_they_are(layer: BatchNormalization) -> None:
    entry = Input((6,))
    model = Model(entry, layers.Activation("tanh")(layer(entry)))
    shaken(layer)
    source = graph(model, (6,))
    assert not source.graph.graph.findAllNodes("aten::batch_norm")
    x = np.random.default_rng(2).standard_normal((4, 6)).astype("float32")
    with torch.no_grad():
        (got,) = source.graph(torch.from_numpy(x))
    np.testing.assert_allclose(got.numpy(), reference(model, x)[0], rtol=1e-5, atol=1e-5)

"""Training runs of the guide's ten models through a server, beside the same runs in stock Keras."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import stock_zoo
from layerserve import Client

#: Optimizer, loss and metric; None for what the file has, where the guide compiles the model. What it compiles the
#: headline model with, Keras 3 no longer takes.
COMPILED: dict[str, tuple[str, str, str | None] | None] = {
    "dense": None,
    "tweets": None,
    "headline": ("adam", "binary_crossentropy", None),
    "model_as_layer": ("rmsprop", "categorical_crossentropy", "accuracy"),
    "layer_node": ("sgd", "mse", "mae"),
    "inception": ("adam", "mse", "mae"),
    "residual": ("sgd", "mse", "mae"),
    "shared_vision": ("rmsprop", "binary_crossentropy", "accuracy"),
    "visual_qa": ("adam", "categorical_crossentropy", "accuracy"),
    # RMSprop takes gradients that are rounding alone for as large as others: stock Keras itself is off by 3% in the
    # third epoch where its first weights are off by 1e-7.
    "video_qa": ("sgd", "categorical_crossentropy", "accuracy"),
}
#: A hundred frames at the guide's 224 pixels would take about a hundred times as long as `visual_qa`, which has one.
SIZES: dict[str, dict[str, int]] = {"video_qa": {"frames": 100, "size": 30}}
Logs = dict[str, tuple[list[float], list[float]]]


def logs(client: Client, served: str, path: Path, name: str, *, rows: int, batch_size: int) -> Logs:
    """The logs of the served model's training, each with those of stock Keras, which trains the model of the file."""
    settings = COMPILED[name]
    oracle = keras.models.load_model(path, compile=settings is None)
    for layer in oracle._flatten_layers(include_self=False):
        if isinstance(layer, keras.Model):
            # Of a compiled model inside Keras logs metrics that nobody updates, or fails over them.
            layer.compiled, layer._compile_metrics = False, None
    given: dict[str, Any] = {}
    if settings is not None:
        optimizer, loss, metric = settings
        each = len(oracle.outputs)
        given = {"optimizer": optimizer, "loss": [loss] * each, "metrics": [[metric]] * each if metric else None}
        oracle.compile(**given)
    x = stock_zoo.random_rows(client.model(served, version=1).inputs, rows=rows)
    y = labels_for(oracle, rows, numbers=settings is not None and settings[1] == "mse")
    inputs, labels = [x[tensor.name] for tensor in oracle.inputs], y if len(y) > 1 else y[0]
    fit = {"epochs": 3, "batch_size": batch_size, "shuffle": False, "validation_split": 0.25}
    theirs = oracle.fit(inputs if len(inputs) > 1 else inputs[0], labels, verbose=0, **fit).history
    ours = client.train(served, x, labels, version=1, publish=False, **fit, **given).wait().history
    assert list(ours) == list(theirs), f"{name}: logs {list(ours)}, expected {list(theirs)}"
    return {log: (list(ours[log]), list(theirs[log])) for log in theirs}


def labels_for(model: keras.Model, rows: int, numbers: bool) -> list[np.ndarray]:
    """Labels of the shapes of the outputs: numbers, or one class of several, or a yes or no."""
    rng = np.random.default_rng(4)
    found = []
    for output in model.outputs:
        *shape, last = (rows, *output.shape[1:])
        classes = rng.integers(0, max(2, last), shape)
        if numbers:
            found.append(rng.standard_normal((*shape, last)).astype("float32"))
        else:
            found.append(np.eye(last, dtype="float32")[classes] if last > 1 else classes[..., None].astype("float32"))
    return found


def worst(found: Logs) -> float:
    """How far logs are apart at most: absolute for small, relative for large numbers."""
    return max(float(np.max(np.abs(np.subtract(a, b)) / (1 + np.abs(b)))) for a, b in found.values())

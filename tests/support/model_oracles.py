"""Whole models against stock Keras: written once, built by both, and loaded from Keras's file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import layergraph
import numpy as np
from oracles import assert_close, flat, keras, perturb

#: Writes a model with `keras` or `layergraph`: (namespace) -> (inputs, outputs).
Build = Callable[[Any], tuple[list[Any], list[Any]]]


def check_model(build: Build, arrays: list[np.ndarray], folder: Path, tolerance: float = 1e-5) -> None:
    """The model built here, and the one loaded from Keras's `.keras`, give what Keras gives."""
    theirs = keras.Model(*build(keras))
    perturb(theirs)
    expected = flat(theirs.predict_on_batch(arrays))

    ours = layergraph.Model(*build(layergraph))
    for layer, other in zip(in_order_of_making(ours), in_order_of_making(theirs), strict=True):
        layer.set_weights(other.get_weights())
    compare(ours, arrays, expected, tolerance)

    path = folder / "model.keras"
    theirs.save(path)
    compare(layergraph.load_model(path), arrays, expected, tolerance)


def in_order_of_making(model: Any) -> list[Any]:
    """The layers with weights, by class and by the number in their default names, which both count alike."""
    layers = [layer for layer in model.layers if layer.get_weights()]
    return sorted(
        layers, key=lambda layer: (layer.name.rstrip("_0123456789"), int(*re.findall(r"_(\d+)$", layer.name)))
    )


def compare(model: Any, arrays: list[np.ndarray], expected: list[np.ndarray], tolerance: float) -> None:
    """The model's outputs for arrays in the order of its inputs."""
    results = model.plan().run(dict(zip(model.input_names, arrays, strict=True)))
    assert len(results) == len(expected)
    for got, want in zip(results.values(), expected, strict=True):
        assert_close(got, want, tolerance)

"""The part of `compare_applications.py` that stock Keras runs, in a process of its own.

    python lab/proofs/applications_oracle.py NAME FOLDER

Builds a model of keras.applications with random weights, saves it, and writes two images and the model's outputs for
them, also in float64. Runs under any Keras 3; KERAS_BACKEND names its backend.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

#: Small, and nothing that the models refuse.
SIZE = 128


def build(name: str) -> Any:
    """The model without the softmax, which hides differences where it saturates."""
    make = getattr(keras.applications, name)
    return make(weights=None, classifier_activation=None, input_shape=(SIZE, SIZE, 3))


def vary(model: Any, images: Any) -> None:
    """Moves weights off the zeros, ones and millionths that they start with, and which hide mistakes; then has each
    BatchNormalization take the statistics of the images, so that signals neither die out nor grow from layer to layer.
    """
    random = np.random.default_rng(1)
    for layer in model.layers:
        values = layer.get_weights()
        for i, variable in enumerate(layer.weights):
            shape = values[i].shape
            if variable.path.endswith(("gamma", "bias", "beta")):
                centre = float(variable.path.endswith("gamma"))
                # Branches add little, as in trained models: else rounding grows from block to block.
                centre = centre / 4 if _is_branch(layer) else centre
                values[i] = (centre + random.uniform(-0.2, 0.2, shape)).astype(values[i].dtype)
        layer.set_weights(values)
    normalizations = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    for layer in normalizations:
        layer.momentum, layer.before = 0.0, layer.momentum
    if normalizations:
        model(images, training=True)
    for layer in normalizations:
        layer.momentum = layer.before


def _is_branch(layer: Any) -> bool:
    return any(isinstance(node.operation, keras.layers.Add) for node in layer._outbound_nodes)


def main(name: str, folder: str) -> None:
    """Writes NAME.keras and NAME.npz."""
    warnings.filterwarnings("ignore")
    keras.utils.set_random_seed(0)
    model = build(name)
    images = np.random.default_rng(0).uniform(0, 255, (2, SIZE, SIZE, 3)).astype("float32")
    vary(model, images)
    outputs = model.predict_on_batch(images)
    model.save(Path(folder) / f"{name}.keras")
    weights = model.get_weights()
    # What both computations round: random networks let rounding grow from block to block, some to more than 1e-4.
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    exact = build(name)
    exact.set_weights(weights)
    truth = exact.predict_on_batch(images.astype("float64"))
    np.savez(Path(folder) / f"{name}.npz", images=images, outputs=np.asarray(outputs), exact=np.asarray(truth))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

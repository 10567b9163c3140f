"""Logs models in MLflow with the Keras of this Python: mlflow_peer.py NAME FOLDER FORMAT SEED.

FORMAT is keras (Keras 3), tf or h5 (tf.keras 2). Writes FOLDER/VERSION.npz with inputs and Keras's outputs; prints the
version. Or: mlflow_peer.py load URI FILE, which compares what Keras computes for a model of MLflow with such a file.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("KERAS_BACKEND", "torch")

import numpy as np


def log(name: str, folder: str, format: str, seed: int) -> None:
    """Logs a model, and registers it as the next version."""
    import mlflow
    from mlflow.models import infer_signature

    if format == "keras":
        import keras

        flavor = mlflow.keras
    else:
        from tensorflow import keras

        flavor = mlflow.tensorflow
    keras.utils.set_random_seed(seed)
    x = keras.Input((4,), name="x")
    hidden = keras.layers.LSTM(5)(keras.layers.Reshape((2, 2))(x))
    model = keras.Model(x, keras.layers.Dense(3, name="y", activation="softmax")(hidden))
    model.compile("adam", "mse")
    data = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
    outputs = model.predict(data, verbose=0)
    options = {"keras_model_kwargs": {"save_format": "h5"}} if format == "h5" else {}
    with mlflow.start_run():
        logged = flavor.log_model(
            model,
            "model",
            signature=infer_signature(data, outputs),
            registered_model_name=name,
            pip_requirements=["keras"],
            **options,
        )
    np.savez(f"{folder}/{logged.registered_model_version}.npz", x=data, y=outputs)
    print(logged.registered_model_version)


def load(uri: str, file: str) -> None:
    """Prints the largest difference from the outputs in a file."""
    import mlflow

    arrays = np.load(file)
    outputs = mlflow.keras.load_model(uri).predict(arrays["x"], verbose=0)
    print(f"{np.abs(outputs - arrays['y']).max():.3g}")


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(*sys.argv[2:])
    else:
        log(*sys.argv[1:4], int(sys.argv[4]))

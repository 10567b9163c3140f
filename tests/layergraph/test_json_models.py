"""Architectures in JSON with weights beside them, and models of TensorFlow.js."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph.errors import ModelFileError, UnsafeFileError
from oracles import assert_close, perturb


def model() -> Any:
    x = keras.Input((6, 4), name="x")
    y = keras.layers.LSTM(3)(keras.layers.BatchNormalization()(x))
    made = keras.Model(x, keras.layers.Dense(2)(y))
    perturb(made)
    return made


X = np.random.default_rng(0).standard_normal((2, 6, 4)).astype("float32")


def check(folder: Path, stock: Any, tolerance: float = 1e-5) -> None:
    assert_close(
        next(iter(layergraph.load_model(folder).plan().run({"x": X}).values())), stock.predict_on_batch(X), tolerance
    )


@pytest.mark.parametrize("weights", ["model.weights.h5", "other.weights.h5"])
@pytest.mark.parametrize("config", ["model.json", "net.json"])
def test_an_architecture_is_found_with_its_weights(weights: str, config: str, tmp_path: Path) -> None:
    stock = model()
    (tmp_path / config).write_text(stock.to_json())
    stock.save_weights(tmp_path / weights)
    check(tmp_path, stock)
    check(tmp_path / config, stock)


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_legacy_weights_are_told_by_what_they_hold(tmp_path: Path) -> None:
    import h5py

    stock = model()
    (tmp_path / "model.json").write_text(stock.to_json())
    stock.save(tmp_path / "whole.h5")
    with h5py.File(tmp_path / "whole.h5") as whole, h5py.File(tmp_path / "model.h5", "w") as alone:
        for name in whole["model_weights"]:
            whole.copy(f"model_weights/{name}", alone)
        alone.attrs["layer_names"] = whole["model_weights"].attrs["layer_names"]
    (tmp_path / "whole.h5").unlink()
    check(tmp_path, stock)


def write_shards(folder: Path, stock: Any, *, quantised: bool = False, trainable_first: bool = False) -> dict[str, Any]:
    if trainable_first:
        variables = [*stock.trainable_weights, *stock.non_trainable_weights]
    else:
        variables = [v for layer in stock.layers for v in layer.weights]
    data, weights = b"", []
    for variable in variables:
        value = np.asarray(keras.ops.convert_to_numpy(variable), "<f4")
        entry: dict[str, Any] = {"name": variable.path, "shape": list(value.shape), "dtype": "float32"}
        if quantised:
            low, scale = float(value.min()), float(np.ptp(value) / 65535) or 1.0
            entry["quantization"] = {"dtype": "uint16", "scale": scale, "min": low}
            value = np.round((value - low) / scale).astype("<u2")
        data += value.tobytes()
        weights.append(entry)
    (folder / "group1-shard1of2.bin").write_bytes(data[:101])
    (folder / "group1-shard2of2.bin").write_bytes(data[101:])
    topology = {"model_config": json.loads(stock.to_json()), "keras_version": keras.__version__}
    whole = {
        "format": "layers-model",
        "modelTopology": topology,
        "weightsManifest": [{"paths": ["group1-shard1of2.bin", "group1-shard2of2.bin"], "weights": weights}],
    }
    (folder / "model.json").write_text(json.dumps(whole))
    return whole


@pytest.mark.parametrize("trainable_first", [False, True])
@pytest.mark.parametrize("quantised", [False, True])
def test_shards_give_keras_numbers(quantised: bool, trainable_first: bool, tmp_path: Path) -> None:
    stock = model()
    write_shards(tmp_path, stock, quantised=quantised, trainable_first=trainable_first)
    check(tmp_path, stock, 1e-3 if quantised else 1e-5)


@pytest.mark.parametrize(
    "paths",
    [
        ["../secret"],
        ["/etc/passwd"],
        ["http://host/x"],
        ["model.json"],
        ["a.bin"] * 100_000,
        [".."],
        [7],
        ["link"],
        ["fifo"],
    ],
    ids=lambda paths: str(paths[0]),
)
def test_hostile_shards_are_refused(paths: list[Any], tmp_path: Path) -> None:
    whole = write_shards(tmp_path, model())
    whole["weightsManifest"][0]["paths"] = paths
    (tmp_path / "model.json").write_text(json.dumps(whole))
    (tmp_path / "a.bin").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ModelFileError):
        layergraph.load_model(tmp_path)


@pytest.mark.parametrize("shape", [[-1, 4], [0.5], [2**40], "x", None, [True]])
def test_hostile_shapes_are_refused(shape: Any, tmp_path: Path) -> None:
    whole = write_shards(tmp_path, model())
    whole["weightsManifest"][0]["weights"][0]["shape"] = shape
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with pytest.raises(ModelFileError):
        layergraph.load_model(tmp_path)


def test_a_link_is_named(tmp_path: Path) -> None:
    whole = write_shards(tmp_path, model())
    (tmp_path / "link").symlink_to("/etc/hostname")
    whole["weightsManifest"][0]["paths"] = ["link"]
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with pytest.raises(UnsafeFileError, match="is a link"):
        layergraph.load_model(tmp_path)

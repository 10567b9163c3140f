"""Architectures in JSON with weights beside them, and models of TensorFlow.js."""

from __future__ import annotations

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import keras
import layergraph
import numpy as np
import pytest
from layergraph.archive import LoadLimits, open_archive
from layergraph.archive.shards import ShardedWeights
from layergraph.errors import CorruptFileError, ModelFileError, UnsafeFileError, UnsupportedModelError
from oracles import assert_close, perturb


@cache
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


@pytest.mark.parametrize("names", [[], ["a.h5", "b.h5"], ["a.h5", "b.hdf5", "c.weights.h5"]])
def test_an_architecture_without_its_weights_or_with_several_is_refused(names: list[str], tmp_path: Path) -> None:
    (tmp_path / "net.json").write_text(model().to_json())
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(CorruptFileError, match=f"has no weights, and there are {len(names)} weight files next to it"):
        layergraph.load_model(tmp_path / "net.json")


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


def write_shards(
    folder: Path, stock: Any, *, quantised: bool = False, trainable_first: bool = False, sort: bool = False
) -> dict[str, Any]:
    layers = sorted(stock.layers, key=lambda layer: layer.name) if sort else stock.layers
    if trainable_first:
        variables = [*stock.trainable_weights, *stock.non_trainable_weights]
    else:
        variables = [v for layer in layers for v in layer.weights]
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


def many_of_a_kind() -> Any:
    """Layers that only differ in their names, some of them in a nested model."""
    inner = keras.Sequential(
        [keras.Input((6, 4)), keras.layers.Dense(4, name="inner"), keras.layers.Dense(4, name="a")], name="nest"
    )
    y = x = keras.Input((6, 4), name="x")
    for index in range(12):
        y = keras.layers.Dense(4, "tanh", name=f"dense_{index}")(y)
    y = keras.layers.Bidirectional(keras.layers.LSTM(2, return_sequences=True), name="both")(inner(y))
    made = keras.Model(x, keras.layers.Dense(4, name="dense")(y))
    perturb(made)
    return made


def test_a_converter_writes_layers_by_the_alphabet(tmp_path: Path) -> None:
    stock = many_of_a_kind()
    write_shards(tmp_path, stock, sort=True)
    check(tmp_path, stock)


def test_layers_are_found_by_order_where_names_tell_nothing(tmp_path: Path) -> None:
    stock = model()
    whole = write_shards(tmp_path, stock, sort=True)
    for entry in whole["weightsManifest"][0]["weights"]:
        entry["name"] = "lost/" + entry["name"].rpartition("/")[2]
    (tmp_path / "model.json").write_text(json.dumps(whole))
    check(tmp_path, stock)


def test_a_name_of_many_parts_takes_no_time(tmp_path: Path) -> None:
    stock = model()
    whole = write_shards(tmp_path, stock)
    for entry in whole["weightsManifest"][0]["weights"]:
        entry["name"] = "a/" * 100_000 + entry["name"].rpartition("/")[2]
    (tmp_path / "model.json").write_text(json.dumps(whole))
    started = time.process_time()
    check(tmp_path, stock)
    assert time.process_time() - started < 10


def test_quantised_values_are_those_of_tensorflow_js(tmp_path: Path) -> None:
    whole = write_shards(tmp_path, model(), quantised=True)
    with open_archive(tmp_path) as archive:
        assert isinstance(archive.weights, ShardedWeights)
        data = b"".join((tmp_path / name).read_bytes() for name in whole["weightsManifest"][0]["paths"])
        for array, entry in zip(archive.weights.arrays, whole["weightsManifest"][0]["weights"], strict=True):
            stored = np.frombuffer(data, "<u2", int(np.prod(array.shape)), array.start).astype(float)
            real = stored * entry["quantization"]["scale"] + entry["quantization"]["min"]
            np.testing.assert_array_equal(array.read().ravel(), real.astype("float32"))


def test_a_config_that_tensorflow_js_wrote_itself_is_read(tmp_path: Path) -> None:
    stock = keras.Sequential([keras.Input((6, 4), name="x"), keras.layers.LSTM(3, recurrent_activation="hard_sigmoid")])
    perturb(stock)
    whole = write_shards(tmp_path, stock)
    cell = {"units": 3, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "unit_forget_bias": None}
    layer = {"class_name": "LSTMCell", "config": cell}
    first = {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 6, 4], "dtype": "float32", "name": "x"}}
    rnn = {"class_name": "RNN", "config": {**cell, "name": "lstm", "trainable": True, "cell": layer}}
    whole["modelTopology"] = {
        "class_name": "Sequential",
        "config": {"name": "s", "layers": [first, rnn]},
        "keras_version": "tfjs-layers 4.22.0",
        "backend": "tensor_flow.js",
    }
    (tmp_path / "model.json").write_text(json.dumps(whole))
    kernel, recurrent, bias = (np.asarray(value, float) for value in stock.get_weights())
    state = carry = np.zeros((2, 3))
    for step in range(6):
        gates = np.split(X[:, step] @ kernel + state @ recurrent + bias, 4, axis=1)
        # Slope 1/5, as in Keras 2.
        i, f, o = (np.clip(0.2 * gates[k] + 0.5, 0, 1) for k in (0, 1, 3))
        carry = f * carry + i * np.tanh(gates[2])
        state = o * np.tanh(carry)
    result = next(iter(layergraph.load_model(tmp_path).plan().run({"x": X}).values()))
    assert_close(result, state.astype("float32"), 1e-5)


def test_a_graph_of_tensorflow_operations_is_told(tmp_path: Path) -> None:
    whole = {"format": "graph-model", "modelTopology": {"node": []}, "weightsManifest": []}
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with pytest.raises(UnsupportedModelError, match="graph-model"):
        layergraph.load_model(tmp_path)


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
    with pytest.raises(UnsafeFileError if paths == ["link"] else ModelFileError):
        layergraph.load_model(tmp_path)


@pytest.mark.parametrize("shape", [[-1, 4], [0.5], [2**40], "x", None, [True]])
def test_hostile_shapes_are_refused(shape: Any, tmp_path: Path) -> None:
    whole = write_shards(tmp_path, model())
    whole["weightsManifest"][0]["weights"][0]["shape"] = shape
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with pytest.raises(ModelFileError):
        layergraph.load_model(tmp_path)


def changed(folder: Path, change: Any) -> Path:
    whole = write_shards(folder, model())
    change(whole)
    (folder / "model.json").write_text(json.dumps(whole))
    return folder


def first(whole: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = whole["weightsManifest"][0]["weights"][0]
    return entry


WRONG: dict[str, tuple[Any, str]] = {
    "no groups": (lambda whole: whole.update(weightsManifest=3), "weightsManifest isn't a list of groups"),
    "too many groups": (
        lambda whole: whole.update(weightsManifest=[{"paths": [], "weights": []}] * 10_001),
        "weightsManifest isn't a list of groups",
    ),
    "a group that is none": (
        lambda whole: whole["weightsManifest"].append(3),
        "weightsManifest has a group without paths and weights",
    ),
    "a group without weights": (
        lambda whole: whole["weightsManifest"].append({"paths": []}),
        "weightsManifest has a group without paths and weights",
    ),
    "a weight that is none": (
        lambda whole: whole["weightsManifest"][0]["weights"].append(3),
        "weightsManifest has a weight without name and shape",
    ),
    "a name that is none": (lambda whole: first(whole).update(name=3), "has a weight without name and shape"),
    "nine axes": (lambda whole: first(whole).update(shape=[1] * 9), "has a weight without name and shape"),
    "another type": (lambda whole: first(whole).update(dtype="string"), "weight '.*' has type 'string'"),
    "another quantisation": (
        lambda whole: first(whole).update(quantization={"dtype": "int8"}),
        "weight '.*' is quantized as 'int8'",
    ),
    "more than there is": (lambda whole: first(whole).update(shape=[5]), r"has \d+ bytes, but its files have \d+"),
    "a file twice": (
        lambda whole: whole["weightsManifest"][0]["paths"].append("group1-shard1of2.bin"),
        "refers to weight file 'group1-shard1of2.bin' twice, or to too many files",
    ),
    "a topology without layers": (
        lambda whole: whole.update(modelTopology={"model_config": 3}),
        "modelTopology has no config of layers",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_manifest_is_told(name: str, tmp_path: Path) -> None:
    change, text = WRONG[name]
    with pytest.raises(ModelFileError, match=text):
        layergraph.load_model(changed(tmp_path, change))


def test_there_are_only_so_many_weights(tmp_path: Path) -> None:
    write_shards(tmp_path, model())
    with open_archive(tmp_path, LoadLimits(names=9)) as archive:
        assert len(archive.weights.arrays) == 9
    with pytest.raises(CorruptFileError, match="has more than 8 weights"):
        open_archive(tmp_path, LoadLimits(names=8))


def test_a_config_is_only_so_long(tmp_path: Path) -> None:
    write_shards(tmp_path, model())
    size = (tmp_path / "model.json").stat().st_size
    open_archive(tmp_path, LoadLimits(config_bytes=size)).close()
    with pytest.raises(CorruptFileError, match=f"has {size} bytes, expected at most {size - 1}"):
        open_archive(tmp_path, LoadLimits(config_bytes=size - 1))


def test_a_shard_that_is_cut_off_while_it_is_open_is_told(tmp_path: Path) -> None:
    write_shards(tmp_path, model())
    with open_archive(tmp_path) as archive:
        os.truncate(tmp_path / "group1-shard2of2.bin", 10)
        with pytest.raises(CorruptFileError, match=r"array '.*' is truncated"):
            archive.weights.arrays[-1].read()


def test_weights_in_half_precision_and_integers(tmp_path: Path) -> None:
    values = np.array([1.5, -2.25, 3.0], "<f2")
    whole_numbers, truths = np.array([3, 200], "u1"), np.array([1, 0], "u1")
    manifest = [
        {"name": "half", "shape": [3], "dtype": "float32", "quantization": {"dtype": "float16"}},
        {"name": "int", "shape": [2], "dtype": "int32", "quantization": {"dtype": "uint8", "scale": 0.3, "min": -1}},
        {"name": "bool", "shape": [2], "dtype": "bool"},
        {"name": "plain", "shape": [2], "dtype": "float32", "quantization": {"dtype": "uint8"}},
        {"name": "empty", "shape": [0, 3], "dtype": "float32"},
    ]
    data = b"".join(array.tobytes() for array in (values, whole_numbers, truths, whole_numbers))
    whole = write_shards(tmp_path, model())
    whole["weightsManifest"] = [{"paths": ["a.bin", "none.bin", "b.bin"], "weights": manifest}]
    for name, part in (("a.bin", data[:3]), ("none.bin", b""), ("b.bin", data[3:])):
        (tmp_path / name).write_bytes(part)
    (tmp_path / "model.json").write_text(json.dumps(whole))
    with open_archive(tmp_path) as archive:
        half, integers, bools, plain, empty = (array.read() for array in archive.weights.arrays)
    np.testing.assert_array_equal(half, values.astype("float32"))
    np.testing.assert_array_equal(integers, [0, 59])
    assert (integers.dtype, bools.dtype, half.dtype) == ("int32", "bool", "float32")
    np.testing.assert_array_equal(bools, [True, False])
    np.testing.assert_array_equal(plain, [3, 200])
    assert empty.shape == (0, 3)

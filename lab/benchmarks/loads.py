"""The models that servers are measured with, and one ready-made request for each, in each protocol."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from layergraph import Input, Model
from layergraph.layers import Conv2D, GlobalAveragePooling2D
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.values.tensors import Array, decode, encode
from layerserve.values.wire import tag, varint
from layerserve_server.protocols.inference.inference_pb2 import ModelInferResponse

PREDICT = "/layerserve.v1.PredictionService/Predict"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
#: The port of HTTP is that of gRPC and so much.
WEB = 1
#: How the Open Inference Protocol names types.
OIP_TYPES = {"float32": "FP32", "int32": "INT32"}
MODELS = ("small", "middle", "mobilenet", "large", "slow")
#: Threads that servers get for a model whose batches are too small for two. For others: one for each core.
THREADS = {"small": 1, "middle": 1}
#: Models of `keras.applications`, with random weights.
APPLICATIONS = {"mobilenet": "MobileNetV2", "large": "ResNet50"}
#: Saves one of them. Normalization gets the statistics of some rows: without them each layer's values are smaller than
#: those before, until all classes have the same probability and any answer looks right.
MAKE_APPLICATION = """
import sys
import keras
import numpy as np

model = getattr(keras.applications, sys.argv[1])(weights=None)
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.0
model(np.random.default_rng(0).random((4, 224, 224, 3), np.float32), training=True)
model.save(sys.argv[2])
"""


@dataclass(frozen=True)
class Load:
    """What is sent to which path: a message of gRPC, or a body over HTTP/1.1.

    headers    of HTTP; None for gRPC
    offset     what is added to the server's port
    """

    path: str
    request: bytes
    headers: tuple[str, ...] | None = None
    offset: int = 0


def inputs(model: str) -> dict[str, Array]:
    """One row for a model."""
    draw = np.random.default_rng(0)
    if model == "small":
        return {"": draw.random((1, 784), np.float32)}
    if model == "middle":
        return {
            "main_input": draw.integers(0, 10000, (1, 100)).astype(np.int32),
            "aux_input": draw.random((1, 5), np.float32),
        }
    if model == "slow":
        return {"": draw.random((1, 32, 32, 3), np.float32)}
    return {"": draw.random((1, 224, 224, 3), np.float32)}


def write_models(folder: Path, names: Sequence[str]) -> None:
    """Small: the dense network of the guide; middle: its headline model; mobilenet: MobileNetV2; large: ResNet50.

    Slow: ten convolutions of 128 filters over 32 x 32 points, 3 GFLOP for a row of 12 KB.
    """
    from layerserve_zoo.zoo import ZOO

    sources = {"small": "dense", "middle": "headline"}
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        path = folder / name / "1" / "model.keras"
        if name in sources:
            ZOO[sources[name]].make().save(path)
        elif name == "slow":
            slow_model().save(path)
        else:
            command = [sys.executable, "-c", MAKE_APPLICATION, APPLICATIONS[name], str(path)]
            subprocess.run(command, check=True, env={**os.environ, "KERAS_BACKEND": "torch"})


def slow_model() -> Model:
    """A model that computes for tens of milliseconds a row."""
    inputs = Input((32, 32, 3))
    x = inputs
    for _ in range(10):
        x = Conv2D(128, 3, padding="same", activation="relu")(x)
    return Model(inputs, GlobalAveragePooling2D()(x))


def predict_load(model: str) -> Load:
    """A Predict of one row."""
    tensors = [encode(array, name) for name, array in inputs(model).items()]
    return Load(PREDICT, PredictRequest(model=ModelSpec(name=model), inputs=tensors).SerializeToString())


def infer_load(model: str, input: str = "x") -> Load:
    """A ModelInfer of the same row, as Triton's clients send it. `input` is the name of a model's only input."""

    def field(number: int, data: bytes) -> bytes:
        return b"".join((tag(number), varint(len(data)), data))

    tensors, contents = b"", b""
    for name, array in inputs(model).items():
        shape = b"".join(map(varint, array.shape))
        head = field(1, (name or input).encode()) + field(2, OIP_TYPES[array.dtype.name].encode())
        tensors += field(5, head + field(3, shape))
        contents += field(7, array.tobytes())
    return Load(MODEL_INFER, field(1, model.encode()) + tensors + contents)


def own_infer_load(model: str) -> Load:
    """As `infer_load`, with the input's name in our files."""
    return infer_load(model, "input_layer")


def outputs(load: Load, reply: bytes) -> list[Array]:
    """The outputs in a reply to a Predict or a ModelInfer; those of the latter are raw bytes of float32."""
    if load.path == PREDICT:
        return [decode(tensor) for tensor in PredictResponse.FromString(reply).outputs]
    message = ModelInferResponse.FromString(reply)
    pairs = zip(message.outputs, message.raw_output_contents, strict=True)
    return [np.frombuffer(raw, np.float32).reshape(tensor.shape) for tensor, raw in pairs]


JSON_TYPE = "content-type: application/json"


def json_load(model: str, path: str = "/predict") -> Load:
    """The same row as JSON."""
    rows = {name or "x": array[0].tolist() for name, array in inputs(model).items()}
    return Load(path, json.dumps(rows).encode(), (JSON_TYPE,))


def http_load(model: str, input: str = "x", *, binary: bool = True) -> Load:
    """A request of the Open Inference Protocol over HTTP, with tensors in binary both ways or in JSON."""
    tensors: list[dict[str, object]] = []
    data = b""
    for name, array in inputs(model).items():
        tensor = {"name": name or input, "datatype": OIP_TYPES[array.dtype.name], "shape": array.shape}
        if binary:
            tensors.append({**tensor, "parameters": {"binary_data_size": array.nbytes}})
            data += array.tobytes()
        else:
            tensors.append({**tensor, "data": array.ravel().tolist()})
    text = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": binary}}).encode()
    headers = (f"inference-header-content-length: {len(text)}",) if binary else (JSON_TYPE,)
    return Load(f"/v2/models/{model}/infer", text + data, headers, WEB)


def rows_load(model: str) -> Load:
    """The same row in TensorFlow Serving's form."""
    rows = {name: array[0].tolist() for name, array in inputs(model).items()}
    (instance,) = rows.values() if len(rows) == 1 else (rows,)
    return Load(f"/v1/models/{model}:predict", json.dumps({"instances": [instance]}).encode(), (JSON_TYPE,), WEB)


def http_outputs(load: Load, body: bytes, length: str | None) -> list[Array]:
    """The outputs, of float32, in a reply of our server; `length` is its header with the size of the JSON."""
    value = json.loads(body[: int(length)] if length else body)
    if "predictions" in value:
        (row,) = value["predictions"]
        return [np.array([one], np.float32) for one in (row.values() if isinstance(row, dict) else [row])]
    found, at = [], int(length or 0)
    for tensor in value["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size", 0)
        data = np.frombuffer(body[at : at + size], np.float32) if size else np.array(tensor["data"], np.float32)
        found.append(data.reshape(tensor["shape"]))
        at += size
    return found

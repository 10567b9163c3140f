"""Servers to be measured side by side: ours, and those that a user would pick instead."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from urllib.error import URLError

import grpc
import numpy as np
from layerserve.v1 import models_pb2, models_pb2_grpc
from layerserve.values.tensors import Array
from loads import (
    MODELS,
    THREADS,
    WEB,
    Load,
    http_load,
    http_outputs,
    infer_load,
    inputs,
    json_load,
    outputs,
    own_infer_load,
    predict_load,
    rows_load,
)

PEERS = Path(__file__).parent / "peers"
#: A server that isn't up after so many seconds has failed.
START_SECONDS = 180
#: Time that our server has to choose engines.
TUNING_SECONDS = 60
#: Largest difference of an answer from torch's in process, relative to the largest value of the output.
TOLERANCE = 1e-4
#: Variable with the Python that converts models to ONNX by tf2onnx.
TF2ONNX = "TF2ONNX_PYTHON"


@dataclass(frozen=True)
class Served:
    """A server under load."""

    name: str
    port: int
    load: Load
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Kind:
    """A server that can be measured.

    command    what starts it: from the folder of models, the model and the port
    load       what it is sent, for a model
    models     those that it knows
    python     the variable that names the Python of its environment; "" is this one
    exact      whether it has the weights of the model's file, so that its answers must be ours
    """

    title: str
    command: Callable[[Path, str, int], list[str]]
    load: Callable[[str], Load]
    models: tuple[str, ...] = MODELS
    python: str = ""
    exact: bool = True

    @property
    def ready(self) -> bool:
        """Whether it is installed."""
        return not self.python or self.python in os.environ


def ours(transport: str, workers: int = 1, *, web: bool = False) -> Callable[[Path, str, int], list[str]]:
    """The command of our server."""

    def command(models: Path, model: str, port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "layerserve_server", str(models)),
            *("--host", "127.0.0.1", "--grpc-port", str(port), "--metrics-port", "-1", "--log-level", "error"),
            *(("--transport", transport) if transport != "grpcio" else ()),
            *(("--workers", str(workers)) if workers > 1 else ()),
            *(("--http-port", str(port + WEB)) if web else ()),
        ]

    return command


def peer(script: str, variable: str = "") -> Callable[[Path, str, int], list[str]]:
    """The command of a script in `peers`."""

    def command(models: Path, model: str, port: int) -> list[str]:
        return [os.environ[variable] if variable else sys.executable, str(PEERS / script), str(port), model]

    return command


def peer_of_onnx(script: str, engine: str, variable: str = "") -> Callable[[Path, str, int], list[str]]:
    """The command of a script in `peers` that has an ONNX file computed by an engine."""

    def command(models: Path, model: str, port: int) -> list[str]:
        return [*peer(script, variable)(models, model, port), engine, str(onnx_file(models, model))]

    return command


def onnx_file(models: Path, model: str) -> Path:
    """The model as an ONNX file beside the folder of models: as Keras on TensorFlow exports it, else as ours does."""
    source, path = models / model / "1" / "model.keras", models.parent / f"{model}.onnx"
    if path.exists():
        return path
    if TF2ONNX in os.environ:
        command = [os.environ[TF2ONNX], str(PEERS / "keras_to_onnx.py"), str(source), str(path)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    else:
        from layergraph import load_model

        load_model(source).export(path, "onnx")
    return path


own_http_load = partial(http_load, input="input_layer")
#: Servers that are ours.
OURS = ("grpcio", "native", "workers", "infer-grpcio", "infer-native", "http", "http-json", "http-rows")
#: The networks of `peers/torch_models.py`, which have weights of their own.
TORCH = ("small", "middle")
#: Models for which servers get more than one thread.
PARALLEL = tuple(model for model in MODELS if model not in THREADS)
GRPCIO, NATIVE, HTTP = ours("grpcio"), ours("native"), ours("grpcio", web=True)
TRITON = peer("triton.py", "TRITON_PYTHON")
SERVERS = {
    "constant": Kind(
        "grpcio, 16 threads, constant reply", peer("constant_reply.py"), predict_load, ("small",), exact=False
    ),
    "grpcio-onnxruntime": Kind(
        "grpcio, 16 threads, ONNX Runtime", peer_of_onnx("grpcio_server.py", "onnxruntime"), own_infer_load
    ),
    "grpcio-openvino": Kind(
        "grpcio, 16 threads, OpenVINO", peer_of_onnx("grpcio_server.py", "openvino"), own_infer_load
    ),
    "grpcio-onnxruntime-1thread": Kind(
        "grpcio, 16 threads, ONNX Runtime, one thread a call",
        peer_of_onnx("grpcio_server.py", "onnxruntime-1thread"),
        own_infer_load,
        PARALLEL,
    ),
    "grpcio-openvino-1thread": Kind(
        "grpcio, 16 threads, OpenVINO, one thread a call",
        peer_of_onnx("grpcio_server.py", "openvino-1thread"),
        own_infer_load,
        PARALLEL,
    ),
    "triton": Kind(
        "Triton, Python backend, torch, dynamic batching",
        TRITON,
        infer_load,
        TORCH,
        "TRITON_PYTHON",
        exact=False,
    ),
    "triton-http": Kind(
        "Triton, as above, HTTP, binary tensors", TRITON, http_load, TORCH, "TRITON_PYTHON", exact=False
    ),
    "triton-http-json": Kind(
        "Triton, as above, HTTP, JSON",
        TRITON,
        partial(http_load, binary=False),
        TORCH,
        "TRITON_PYTHON",
        exact=False,
    ),
    "triton-onnxruntime": Kind(
        "Triton, Python backend, ONNX Runtime, dynamic batching",
        peer_of_onnx("triton.py", "onnxruntime", "TRITON_PYTHON"),
        own_infer_load,
        python="TRITON_PYTHON",
    ),
    "triton-openvino": Kind(
        "Triton, Python backend, OpenVINO, dynamic batching",
        peer_of_onnx("triton.py", "openvino", "TRITON_PYTHON"),
        own_infer_load,
        python="TRITON_PYTHON",
    ),
    "kserve": Kind(
        "KServe's Python server, torch",
        peer("kserve_server.py", "KSERVE_PYTHON"),
        infer_load,
        TORCH,
        "KSERVE_PYTHON",
        exact=False,
    ),
    "litserve": Kind(
        "LitServe, torch, dynamic batching, JSON over HTTP/1.1",
        peer("litserve_server.py", "LITSERVE_PYTHON"),
        json_load,
        TORCH,
        "LITSERVE_PYTHON",
        exact=False,
    ),
    "mosec": Kind(
        "mosec, torch, dynamic batching, JSON over HTTP/1.1",
        peer("mosec_server.py", "LITSERVE_PYTHON"),
        partial(json_load, path="/inference"),
        TORCH,
        "LITSERVE_PYTHON",
        exact=False,
    ),
    "grpcio": Kind("layerserve, transport grpcio", GRPCIO, predict_load),
    "native": Kind("layerserve, transport native", NATIVE, predict_load),
    "infer-grpcio": Kind("layerserve, transport grpcio, Open Inference Protocol", GRPCIO, own_infer_load),
    "infer-native": Kind("layerserve, transport native, Open Inference Protocol", NATIVE, own_infer_load),
    "http": Kind("layerserve, HTTP, binary tensors", HTTP, own_http_load),
    "http-json": Kind("layerserve, HTTP, JSON", HTTP, partial(own_http_load, binary=False)),
    "http-rows": Kind("layerserve, HTTP, TensorFlow Serving's rows", HTTP, rows_load),
    "workers": Kind("layerserve, transport native, two processes", ours("native", workers=2), predict_load),
}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def all_running(names: Sequence[str], models: Path, model: str) -> Iterator[list[Served]]:
    """Servers as by `running`. Names with the same command, which differ in their load, share one server."""
    with ExitStack() as stack:
        started: dict[Callable[[Path, str, int], list[str]], Served] = {}
        servers = []
        for name in names:
            kind = SERVERS[name]
            if kind.command not in started:
                started[kind.command] = stack.enter_context(running(name, models, model))
            served = replace(started[kind.command], name=name, load=kind.load(model))
            check_answer(served, models, model)
            servers.append(served)
        yield servers


@contextmanager
def running(name: str, models: Path, model: str) -> Iterator[Served]:
    """A server that has answered once, with the right numbers where it has the file's weights."""
    port, load = free_port(), SERVERS[name].load(model)
    process = subprocess.Popen(
        SERVERS[name].command(models, model, port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    served = Served(name, port, load, process)
    try:
        check_answer(served, models, model)
        if name in OURS:
            wait_for_tuning(port)
        yield served
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check_answer(served: Served, models: Path, model: str) -> None:
    """Waits until the server answers. Raises RuntimeError if it doesn't, or with other numbers than it should."""
    if served.load.headers is not None:
        body, length = first_body(served.port, served.load, served.process)
        if SERVERS[served.name].exact:
            compare(served, http_outputs(served.load, body, length), answer(models, model))
        return
    with grpc.insecure_channel(
        f"127.0.0.1:{served.port}", options=[("grpc.max_receive_message_length", -1)]
    ) as channel:
        reply = first_reply(channel, served.load, served.process)
    arrays = outputs(served.load, reply)
    if SERVERS[served.name].exact:
        compare(served, arrays, answer(models, model))


def compare(served: Served, arrays: Sequence[Array], expected: Sequence[Array]) -> None:
    """Raises RuntimeError if these aren't the outputs that are expected."""
    for array, right in zip(arrays, expected, strict=True):
        if array.shape != right.shape or np.abs(array - right).max() > TOLERANCE * np.abs(right).max():
            raise RuntimeError(f"{served.name}: got {array}, expected {right}")


@cache
def answer(models: Path, model: str) -> list[Array]:
    """The outputs in process, on torch, of the row that servers get."""
    from layergraph import load_model

    plan = load_model(models / model / "1" / "model.keras").plan()
    return list(plan.run({name or plan.input_specs[0].name: array for name, array in inputs(model).items()}).values())


def first_reply(channel: grpc.Channel, load: Load, process: subprocess.Popen[bytes]) -> bytes:
    """Waits until the server answers."""
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            reply: bytes = channel.unary_unary(load.path)(load.request, timeout=30)
            return reply
        except grpc.RpcError as error:
            starting = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.NOT_FOUND)
            if not starting or process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(map(str, process.args))}: {error}") from error  # type: ignore[arg-type]
            time.sleep(0.2)


def first_body(port: int, load: Load, process: subprocess.Popen[bytes]) -> tuple[bytes, str | None]:
    """As `first_reply`, over HTTP; with the header that has the size of the JSON."""
    headers = dict(header.split(": ") for header in load.headers or ())
    request = urllib.request.Request(f"http://127.0.0.1:{port + load.offset}{load.path}", load.request, headers)
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return reply.read(), reply.headers["inference-header-content-length"]
        except (URLError, ConnectionError) as error:
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{' '.join(map(str, process.args))}: {error}") from error  # type: ignore[arg-type]
            time.sleep(0.2)


def wait_for_tuning(port: int) -> None:
    """Waits until our server has chosen its engines: it answers before, and more slowly."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = models_pb2_grpc.ModelServiceStub(channel)
        end = time.monotonic() + TUNING_SECONDS
        while time.monotonic() < end:
            versions = stub.ListModels(models_pb2.ListModelsRequest(), timeout=30).versions
            if all(version.engines for version in versions):
                return
            time.sleep(0.5)

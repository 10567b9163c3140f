"""Servers to be measured side by side: ours, and those that a user would pick instead."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import grpc
from layerserve.v1 import models_pb2, models_pb2_grpc
from layerserve.v1.prediction_pb2 import PredictResponse
from loads import PREDICT, Load, infer_load, json_load, own_infer_load, predict_load

PEERS = Path(__file__).parent / "peers"
#: A server that isn't up after so many seconds has failed.
START_SECONDS = 180
#: Time that our server has to choose engines.
TUNING_SECONDS = 60


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
    """

    title: str
    command: Callable[[Path, str, int], list[str]]
    load: Callable[[str], Load]
    models: tuple[str, ...] = ("small", "middle", "large")
    python: str = ""

    @property
    def ready(self) -> bool:
        """Whether it is installed."""
        return not self.python or self.python in os.environ


def ours(transport: str, workers: int = 1) -> Callable[[Path, str, int], list[str]]:
    """The command of our server."""

    def command(models: Path, model: str, port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "layerserve_server", str(models)),
            *("--host", "127.0.0.1", "--grpc-port", str(port), "--metrics-port", "-1", "--log-level", "error"),
            *(("--transport", transport) if transport != "grpcio" else ()),
            *(("--workers", str(workers)) if workers > 1 else ()),
        ]

    return command


def peer(script: str, variable: str = "") -> Callable[[Path, str, int], list[str]]:
    """The command of a script in `peers`."""

    def command(models: Path, model: str, port: int) -> list[str]:
        return [os.environ[variable] if variable else sys.executable, str(PEERS / script), str(port), model]

    return command


def triton_of_onnx(models: Path, model: str, port: int) -> list[str]:
    """The command of Triton whose Python backend calls ONNX Runtime, with the graph that `layerserve convert` makes."""
    from layergraph import load_model

    path = models.parent / f"{model}.onnx"
    if not path.exists():
        load_model(models / model / "1" / "model.keras").export(path, "onnx")
    return [*peer("triton.py", "TRITON_PYTHON")(models, model, port), str(path)]


#: Servers that are ours.
OURS = ("grpcio", "native", "workers", "infer-grpcio", "infer-native")
SERVERS = {
    "constant": Kind("grpcio, 16 threads, constant reply", peer("constant_reply.py"), predict_load, ("small",)),
    "triton": Kind(
        "Triton, Python backend, torch, dynamic batching",
        peer("triton.py", "TRITON_PYTHON"),
        infer_load,
        ("small", "middle"),
        "TRITON_PYTHON",
    ),
    "triton-onnxruntime": Kind(
        "Triton, Python backend, ONNX Runtime, dynamic batching",
        triton_of_onnx,
        infer_load,
        ("small",),
        "TRITON_PYTHON",
    ),
    "kserve": Kind(
        "KServe's Python server, torch",
        peer("kserve_server.py", "KSERVE_PYTHON"),
        infer_load,
        ("small", "middle"),
        "KSERVE_PYTHON",
    ),
    "litserve": Kind(
        "LitServe, torch, dynamic batching, JSON over HTTP/1.1",
        peer("litserve_server.py", "LITSERVE_PYTHON"),
        json_load,
        ("small", "middle"),
        "LITSERVE_PYTHON",
    ),
    "grpcio": Kind("layerserve, transport grpcio", ours("grpcio"), predict_load),
    "native": Kind("layerserve, transport native", ours("native"), predict_load),
    "infer-grpcio": Kind("layerserve, transport grpcio, Open Inference Protocol", ours("grpcio"), own_infer_load),
    "infer-native": Kind("layerserve, transport native, Open Inference Protocol", ours("native"), own_infer_load),
    "workers": Kind("layerserve, transport native, two processes", ours("native", workers=2), predict_load),
}


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(name: str, models: Path, model: str) -> Iterator[Served]:
    """A server that has answered once, rightly as far as can be seen."""
    port, load = free_port(), SERVERS[name].load(model)
    process = subprocess.Popen(
        SERVERS[name].command(models, model, port),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        if load.json:
            first_json(port, load, process)
        else:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                reply = first_reply(channel, load, process)
            if load.path == PREDICT:
                assert PredictResponse.FromString(reply).outputs[0].shape[0] == 1
        if name in OURS:
            wait_for_tuning(port)
        yield Served(name, port, load, process)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


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


def first_json(port: int, load: Load, process: subprocess.Popen[bytes]) -> bytes:
    """As `first_reply`, over HTTP."""
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{load.path}", load.request, headers)
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                body: bytes = reply.read()
                return body
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

"""Requests a second and latency of servers, side by side in one run.

The load comes from h2load (Debian: nghttp2-client), a C program that costs the machine little: it sends one ready-made
request over and over, from as many connections as there are callers. It looks at no reply, so each server's first one
is looked at here. Servers take turns, round by round, and the medians over the rounds are shown.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
from bench_timing import p50
from layerserve.tensors import Array, encode
from layerserve.v1 import models_pb2, models_pb2_grpc
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.v1.tensor_pb2 import ModelSpec

PEERS = Path(__file__).parent / "peers"
PREDICT = "/layerserve.v1.PredictionService/Predict"
MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
#: A server that isn't up after so many seconds has failed.
START_SECONDS = 180
#: Time that our server has to choose engines.
TUNING_SECONDS = 60
#: Rows of batches in process.
BATCHES = (1, 2, 4, 8, 16, 32)
#: Servers that are ours.
OURS = ("grpcio", "native", "workers")


@dataclass(frozen=True)
class Load:
    """What is sent to which method."""

    path: str
    request: bytes


@dataclass(frozen=True)
class Served:
    """A server under load."""

    name: str
    port: int
    load: Load
    process: subprocess.Popen[bytes]


@dataclass(frozen=True)
class Measured:
    """One run of h2load: requests a second; latencies in milliseconds; requests that failed.

    `cpu` is the processor time that the server's processes took for a request, in microseconds: on a machine with other
    work it tells more than the clock.
    """

    rate: float
    cpu: float
    p50: float
    p99: float
    failed: int


# ---- models and requests


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
    return {"": draw.random((1, 224, 224, 3), np.float32)}


def write_models(folder: Path, names: Sequence[str]) -> None:
    """Small: the dense network of the guide; middle: its headline model; large: ResNet50 with random weights."""
    from layerserve_zoo.zoo import ZOO

    sources = {"small": "dense", "middle": "headline"}
    for name in names:
        (folder / name / "1").mkdir(parents=True)
        path = folder / name / "1" / "model.keras"
        if name in sources:
            ZOO[sources[name]].make().save(path)
        else:
            code = f"import keras; keras.applications.ResNet50(weights=None).save({str(path)!r})"
            subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "KERAS_BACKEND": "torch"})


def predict_load(model: str) -> Load:
    """A Predict of one row."""
    tensors = [encode(array, name) for name, array in inputs(model).items()]
    return Load(PREDICT, PredictRequest(model=ModelSpec(name=model), inputs=tensors).SerializeToString())


def infer_load() -> Load:
    """A ModelInfer of the same row, as Triton's clients send it."""

    def field(number: int, data: bytes) -> bytes:
        length, size = len(data), b""
        while length > 127:
            size += bytes([length & 127 | 128])
            length >>= 7
        return bytes([number << 3 | 2]) + size + bytes([length]) + data

    row = inputs("small")[""]
    tensor = field(1, b"x") + field(2, b"FP32") + field(3, b"\x01\x90\x06")  # shape: varints 1 and 784
    return Load(MODEL_INFER, field(1, b"small") + field(5, tensor) + field(7, row.tobytes()))


# ---- servers


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def layerserve(transport: str, workers: int = 1) -> Callable[[Path, int], list[str]]:
    """The command of our server."""

    def command(models: Path, port: int) -> list[str]:
        return [
            *(sys.executable, "-m", "layerserve_server", str(models)),
            *("--host", "127.0.0.1", "--grpc-port", str(port), "--metrics-port", "-1", "--log-level", "error"),
            *(("--transport", transport) if transport != "grpcio" else ()),
            *(("--workers", str(workers)) if workers > 1 else ()),
        ]

    return command


SERVERS: dict[str, Callable[[Path, int], list[str]]] = {
    "constant": lambda models, port: [sys.executable, str(PEERS / "constant_reply.py"), str(port)],
    "grpcio": layerserve("grpcio"),
    "native": layerserve("native"),
    "workers": layerserve("native", workers=2),
    "triton": lambda models, port: [os.environ["TRITON_PYTHON"], str(PEERS / "triton.py"), str(port)],
}
TITLES = {
    "constant": "grpcio, 16 threads, constant reply",
    "grpcio": "layerserve, transport grpcio",
    "native": "layerserve, transport native",
    "workers": "layerserve, transport native, two processes",
    "triton": "Triton, Python backend, torch, dynamic batching",
}


@contextmanager
def running(name: str, models: Path, load: Load) -> Iterator[Served]:
    """A server that has answered once, rightly as far as can be seen."""
    port = free_port()
    process = subprocess.Popen(
        SERVERS[name](models, port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
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


# ---- in process: what a server can reach at best


def in_process(models: Path, model: str) -> dict[int, float]:
    """Milliseconds of batches of so many rows, p50, in this process on the engine that is fastest."""
    from layergraph import load_model

    plan = load_model(models / model / "1" / "model.keras").plan()
    plan.tune()
    one = {name or plan.input_specs[0].name: array for name, array in inputs(model).items()}
    times = {}
    for rows in BATCHES:
        arrays = {name: np.repeat(array, rows, axis=0) for name, array in one.items()}
        times[rows] = p50(lambda arrays=arrays: plan.run(arrays), 1.0)
    return times


def show_limits(
    models: Path,
    model: str,
    names: Sequence[str],
    callers: Sequence[int],
    results: dict[tuple[str, int], list[Measured]],
) -> None:
    """How near our servers come to the model in process: rows a second, and what a lone caller waits for longer."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        times = pool.apply(in_process, (models, model))
    best = max(BATCHES, key=lambda rows: rows / times[rows])
    most = best / times[best] * 1000
    print(f"\nin process: {times[1]:.3f} ms for one row; {most:,.0f} rows/s at best, {best} at a time\n")
    for name in names:
        if name not in OURS:
            continue
        for number in callers:
            runs = results[name, number]
            rate, middle = statistics.median(run.rate for run in runs), statistics.median(run.p50 for run in runs)
            line = f"- {TITLES[name]}, callers {number}: {rate / most:.2f} of that; p99 / p50 "
            line += f"{statistics.median(run.p99 / run.p50 for run in runs):.2f}"
            print(line + (f"; {(middle - times[1]) * 1000:.0f} us more than in process" if number == 1 else ""))


# ---- load


def measure(served: Served, callers: int, seconds: int, rate: int = 0) -> Measured:
    """Drives a server from `callers` connections with one request at a time each, `rate` a second at the most."""
    with tempfile.TemporaryDirectory() as folder:
        body, log = Path(folder, "body"), Path(folder, "log")
        request = served.load.request
        body.write_bytes(b"\0" + len(request).to_bytes(4, "big") + request)
        command = [
            *("h2load", "--duration", str(seconds), "--warm-up-time", "1", "--clients", str(callers)),
            *("--max-concurrent-streams", "1", "--data", str(body), "--log-file", str(log)),
            *(("--rps", str(rate)) if rate else ()),
            *("-H", "content-type: application/grpc", "-H", "te: trailers"),
            f"http://127.0.0.1:{served.port}{served.load.path}",
        ]
        before = cpu_seconds(served.process.pid)
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        spent = cpu_seconds(served.process.pid) - before
        latencies = sorted(int(line.split()[2]) / 1000 for line in log.read_text().splitlines())
    rate = re.search(r"finished in .*?, ([\d.]+) req/s", said)
    counts = re.search(r"(\d+) failed, (\d+) errored", said)
    total = re.search(r"requests: (\d+) total", said)
    assert rate, said
    assert counts, said
    assert total, said
    warm_up = 1 + 1 / seconds  # h2load counts no requests of its warm-up, which takes a second
    return Measured(
        float(rate[1]),
        spent / (int(total[1]) * warm_up) * 1e6,
        latencies[len(latencies) // 2],
        latencies[int(len(latencies) * 0.99)],
        int(counts[1]) + int(counts[2]),
    )


def cpu_seconds(group: int) -> float:
    """What all processes of a group have used so far."""
    ticks = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def bench(models: Path, model: str, names: Sequence[str], callers: Sequence[int], rounds: int, seconds: int) -> None:
    """Prints the table of one model."""
    results: dict[tuple[str, int], list[Measured]] = {}
    with ExitStack() as stack:
        servers = [
            stack.enter_context(running(name, models, infer_load() if name == "triton" else predict_load(model)))
            for name in names
        ]
        for number in callers:
            for round in range(rounds):
                # Whoever runs first in one round runs last in the next: a machine that slows down favours nobody.
                for served in servers if round % 2 == 0 else servers[::-1]:
                    results.setdefault((served.name, number), []).append(measure(served, number, seconds))
    show(model, names, callers, results)
    show_limits(models, model, names, callers, results)


def show(
    model: str, names: Sequence[str], callers: Sequence[int], results: dict[tuple[str, int], list[Measured]]
) -> None:
    """The table in Markdown. Ratios are medians of the rounds' own, so that a slow minute doesn't blur them."""
    print(f"\n{model}: requests/s (ratio to the first row; p50, p99 in ms; server's CPU us a request)\n")
    print(f"| server | {' | '.join(f'callers {number}' for number in callers)} |")
    print("|---" * (len(callers) + 1) + "|")
    for name in names:
        cells = []
        for number in callers:
            runs, floor = results[name, number], results[names[0], number]
            ratio = statistics.median(run.rate / other.rate for run, other in zip(runs, floor, strict=True))
            failed = sum(run.failed for run in runs)
            cells.append(
                f"{statistics.median(run.rate for run in runs):,.0f} ({ratio:.2f}; "
                f"{statistics.median(run.p50 for run in runs):.2f}, {statistics.median(run.p99 for run in runs):.2f}; "
                f"{statistics.median(run.cpu for run in runs):.0f})" + (f" {failed} FAILED" if failed else "")
            )
        print(f"| {TITLES[name]} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=("small", "middle", "large"), default=["small"])
    parser.add_argument("--servers", nargs="+", choices=tuple(SERVERS), default=["constant", "grpcio", "native"])
    parser.add_argument("--callers", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2)
    arguments = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("h2load is missing: install nghttp2 (Debian: apt-get install nghttp2-client)")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            write_models(Path(folder), [model])
            # Triton's peer and the constant reply know the small model only.
            names = [name for name in arguments.servers if model == "small" or name in OURS]
            bench(Path(folder), model, names, arguments.callers, arguments.rounds, arguments.seconds)
    print(f"\nload average {os.getloadavg()[0]:.1f} at the end, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

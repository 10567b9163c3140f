"""Shifts the share of a canary while eight clients send requests.

    make -C lab canary ARGS="--transport native --workers 2"

A server process has three versions of a model, whose numbers show which one computed them, and one of them is its
shadow, too. At each share all callers (keys) send a request. No request may fail, no reply may have the numbers of
another version than it names, the share of callers with the canary must be within 1 % of the one that is set, and a
caller may change its version only from the default to the canary while the share grows, and back while it shrinks.
Between two shares the canary's label moves to another version and back, while requests go on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import layergraph
import numpy as np
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors

CLIENTS = 8
SHARES = (0, 1, 5, 20, 50, 100, 50, 5, 0)
DEFAULT, CANARY, OTHER = 1, 2, 3
X = np.ones((1, 4), np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--transport", default="grpcio")
    parser.add_argument("--workers", default="1")
    parser.add_argument("--keys", type=int, default=10_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "models")
        for version in (DEFAULT, CANARY, OTHER):
            make_version(root / "m" / str(version), version)
        configure(root, 0)
        with Server(root, arguments.transport, arguments.workers) as server:
            run(server, root, [f"caller {number}" for number in range(arguments.keys)])


def make_version(folder: Path, version: int) -> None:
    """Writes a model whose outputs are all ten times the version, for rows of ones."""
    x = layergraph.Input((4,), name="x")
    kernel = layergraph.initializers.Constant(version * 10 / 4)
    folder.mkdir(parents=True)
    layergraph.Model(x, layergraph.layers.Dense(2, kernel_initializer=kernel, name="y")(x)).save(folder / "model.keras")


def configure(root: Path, share: float, canary: int = CANARY) -> None:
    """Sets the share and the version of the canary; what is written appears whole."""
    settings = f'default_version = {DEFAULT}\ncanary = "{share} %"\nshadow = {OTHER}\nshadow_share = "20 %"\n'
    for name, text in (("layerserve.toml", settings), ("labels.json", json.dumps({"canary": canary}))):
        (root / "m" / f".{name}").write_text(text)
        (root / "m" / f".{name}").replace(root / "m" / name)


def run(server: Server, root: Path, keys: list[str]) -> None:
    """Goes through all shares. Raises AssertionError if a promise is broken."""
    before: dict[str, int] = {}
    share_before = 0.0
    for share in SHARES:
        configure(root, share)
        time.sleep(3 * server.poll_seconds + 0.5)
        now = all_callers(server, keys)
        measured = 100 * sum(version == CANARY for version in now.values()) / len(keys)
        assert set(now.values()) <= {DEFAULT, CANARY}
        assert abs(measured - share) < 1, f"{measured} % of the callers have the canary, expected {share} %"
        moved = {(before[key], now[key]) for key in before if before[key] != now[key]}
        allowed = {(DEFAULT, CANARY)} if share > share_before else {(CANARY, DEFAULT)}
        assert moved <= allowed, f"callers moved {moved} when the share went from {share_before} % to {share} %"
        print(f"{share:3} %: {measured:6.2f} % of {len(keys)} callers have the canary; no failed request", flush=True)
        before, share_before = now, share
        swap_label(server, root, share, keys[: len(keys) // 10])
    print("\n".join(server.metrics("layerserve_shadow_requests_total", "layerserve_errors_total")))


def swap_label(server: Server, root: Path, share: float, keys: list[str]) -> None:
    """Moves the label to another version and back, while requests go on."""
    stop = threading.Event()

    def move() -> None:
        for version in (OTHER, CANARY):
            configure(root, share, version)
            time.sleep(3 * server.poll_seconds)
        stop.set()

    mover = threading.Thread(target=move)
    mover.start()
    while not stop.is_set():
        all_callers(server, keys)
    mover.join()


def all_callers(server: Server, keys: list[str]) -> dict[str, int]:
    """Sends a request of each caller, from eight clients. Returns the versions of the answers."""
    versions: dict[str, int] = {}
    failures: list[BaseException] = []

    def client(own: list[str]) -> None:
        try:
            with grpc.insecure_channel(server.target, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = prediction_pb2_grpc.PredictionServiceStub(channel)
                for key in own:
                    reply = stub.Predict(MESSAGE, metadata=[("layerserve-key", key)], timeout=30)
                    y = tensors.decode(reply.outputs[0])
                    assert np.allclose(y, 10 * reply.model.version), f"version {reply.model.version} answers {y}"
                    versions[key] = reply.model.version
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=client, args=(keys[number::CLIENTS],)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return versions


MESSAGE = prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="m"), inputs=[tensors.encode(X, "x")])


class Server:
    """A server process of a repository."""

    poll_seconds = 0.1

    def __init__(self, root: Path, transport: str, workers: str) -> None:
        options = {
            "--grpc-port": "18961",
            "--metrics-port": "18962",
            "--transport": transport,
            "--workers": workers,
            "--poll-seconds": str(self.poll_seconds),
            "--drain-seconds": "0",
        }
        command = [sys.executable, "-m", "layerserve_server", str(root)]
        self.process = subprocess.Popen(
            [*command, *(text for pair in options.items() for text in pair)], env=os.environ
        )
        self.target = "127.0.0.1:18961"

    def __enter__(self) -> Server:
        end = time.monotonic() + 120
        while not self._ready():
            assert time.monotonic() < end
            assert self.process.poll() is None, "the server doesn't start"
            time.sleep(0.2)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait(60)

    def metrics(self, *names: str) -> list[str]:
        """Returns the lines of metrics."""
        with urllib.request.urlopen("http://127.0.0.1:18962/metrics", timeout=10) as reply:
            return [line for line in reply.read().decode().splitlines() if line.startswith(names)]

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen("http://127.0.0.1:18962/readyz", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False


if __name__ == "__main__":
    main()

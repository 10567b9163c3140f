"""Starts: probes while models load, and runs that are found before anything answers."""

from __future__ import annotations

import time
from collections import Counter

import grpc
from attacks.check import Check, Scene
from attacks.frames import Wire, message
from attacks.honest import OWN
from attacks.messages import LIST_MODELS, LIST_RUNS, TRAIN, spec_message, training
from attacks.server import free_port, http_status
from layerserve.v1.models_pb2 import ListModelsRequest, ListModelsResponse
from layerserve.v1.training_pb2 import ListRunsRequest, ListRunsResponse

#: Runs that are there before a restart.
RUNS = 5
RESTARTS = 3
START_SECONDS = 90


def make_runs(address: tuple[str, int], count: int) -> Counter[str]:
    """Runs whose data doesn't come: they end at once, and stay listed."""
    seen: Counter[str] = Counter()
    with Wire(address) as wire:
        for _ in range(count):
            number = wire.open(TRAIN)
            wire.give(number, message(spec_message(training())))
            seen[f"run {wire.wait(number, 60).end}"] += 1
    return seen


def first_answers(address: tuple[str, int]) -> Counter[str]:
    """What the very first answers of a server that starts have."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with grpc.insecure_channel(f"{address[0]}:{address[1]}", options=OWN) as channel:
            try:
                runs = channel.unary_unary(LIST_RUNS)(ListRunsRequest().SerializeToString(), timeout=5)
                models = channel.unary_unary(LIST_MODELS)(ListModelsRequest().SerializeToString(), timeout=5)
            except grpc.RpcError as error:
                seen[f"before: {error.code().name}"] += 1
                time.sleep(0.01)
                continue
            seen["runs"] = len(ListRunsResponse.FromString(runs).runs)
            seen["models"] = len({one.name for one in ListModelsResponse.FromString(models).versions})
            return seen
    return seen


def probes(port: int) -> Counter[str]:
    """Pairs of /healthz and /readyz until the server is ready."""
    seen: Counter[str] = Counter()
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        lives, ready = http_status(port, "/healthz"), http_status(port, "/readyz")
        seen[f"{lives} {ready}"] += 1
        if ready == 200:
            break
        time.sleep(0.01)
    seen[f"other path {http_status(port, '/nothing')}"] += 1
    return seen


def _restarts(scene: Scene) -> Counter[str]:
    port, http_port = free_port(), free_port()
    server = scene.start(grpc_port=port, metrics_port=http_port)
    seen = scene.pool.submit(make_runs, server.address, RUNS).result()
    kept = scene.pool.submit(first_answers, server.address).result()
    scene.expect(kept["runs"] >= RUNS, f"{RUNS} runs were begun: {dict(kept)}")
    for _ in range(RESTARTS):
        server.kill()
        asking = scene.pool.submit(first_answers, (server.address[0], port))
        probing = scene.pool.submit(probes, http_port)
        server = scene.start(grpc_port=port, metrics_port=http_port)
        first, probed = asking.result(), probing.result()
        scene.expect(first["runs"] == kept["runs"], f"runs in the first answer: {first['runs']} of {kept['runs']}")
        scene.expect(first["models"] == kept["models"], f"models in the first answer: {dict(first)}")
        allowed = {"0 0", "0 200", "0 503", "200 503", "200 200", "other path 404"}
        scene.expect(set(probed) <= allowed, f"probes while it starts: {dict(probed)}, expected {allowed}")
        scene.expect(probed["200 200"], f"probes: {dict(probed)}")
        seen += first + probed
        scene.only(first, "runs", "models", "before: UNAVAILABLE")
    return seen


CHECKS = [Check("killed and started again, asked at once", 7, _restarts)]

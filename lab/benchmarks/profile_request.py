"""Where the time of one Predict goes, stage by stage, over either transport: `make -C lab profile`.

The server runs in this process with its stages wrapped in clocks, and answers one caller from another process, so that
no stage waits for a neighbour. "transport" is what remains of the caller's time: gRPC on both sides, and the wire.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import grpc
from layerserve_server.app import App
from layerserve_server.extensions.installed import Settings
from layerserve_server.inference.batching import BatchQueue
from layerserve_server.inference.runner import ModelRunner
from layerserve_server.observability.metrics import BatchMetrics, Metrics
from layerserve_server.repository.repository import Repository
from layerserve_server.services.prediction import coalesced
from layerserve_server.services.prediction.encoder import Encoder
from layerserve_server.services.prediction.request_template import RequestTemplates
from loads import inputs, predict_load, write_models

CALLS = 2000
#: Stage, where its function is found, and the function's name.
STAGES: list[tuple[str, Any, str]] = [
    ("known by its bytes", RequestTemplates, "find"),
    ("lease the version", Repository, "lease_loaded"),
    ("arrays from bytes", coalesced, "_joined"),
    ("into the queue", BatchQueue, "put"),
    ("form the batch", BatchQueue, "_form"),
    ("compute", ModelRunner, "__call__"),
    ("reply written", Encoder, "split"),
    ("reply written", Encoder, "fill"),
    ("metrics: calls began", Metrics, "calls_began"),
    ("metrics: calls ended", Metrics, "calls_ended"),
    ("metrics: batch", BatchMetrics, "batch_ran"),
    ("metrics: waited", BatchMetrics, "requests_waited"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=("small", "middle", "large"), default="small")
    parser.add_argument("--transport", choices=("grpcio", "native"), default="grpcio")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), [arguments.model])
        settings = Settings(
            path=Path(folder), host="127.0.0.1", grpc_port=0, metrics_port=-1, transport=arguments.transport
        )
        times: dict[str, list[float]] = {}
        for stage, owner, name in STAGES:
            setattr(owner, name, clocked(getattr(owner, name), times.setdefault(stage, [])))
        with App(settings) as app, multiprocessing.get_context("spawn").Pool(1) as pool:
            pool.apply(call, (app.grpc_port, arguments.model, CALLS // 10))
            for list_ in times.values():
                list_.clear()
            whole = pool.apply(call, (app.grpc_port, arguments.model, CALLS))
    shape = ", ".join(str(array.shape) for array in inputs(arguments.model).values())
    print(f"{arguments.model} model, one row {shape}, transport {arguments.transport}: medians of {CALLS} calls\n")
    known = {stage: median(list_) for stage, list_ in times.items() if list_}
    for stage, seconds in {**known, "transport and all else": whole - sum(known.values()), "whole call": whole}.items():
        print(f"{stage:32} {seconds * 1e6:8.1f} us {seconds / whole:6.1%} {'#' * round(40 * seconds / whole)}")


def clocked(function: Callable[..., Any], times: list[float]) -> Callable[..., Any]:
    """The function, noting how long it takes."""

    def run(*args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            times.append(time.perf_counter() - began)

    return run


def call(port: int, model: str, count: int) -> float:
    """The median time of so many calls, in seconds."""
    load = predict_load(model)
    times = []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        predict = channel.unary_unary(load.path)
        for _ in range(count):
            began = time.perf_counter()
            predict(load.request, timeout=60)
            times.append(time.perf_counter() - began)
    return median(times)


if __name__ == "__main__":
    main()

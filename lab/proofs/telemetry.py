"""A real Prometheus and a receiver of OTLP beside a real server: metrics, aliases, exemplars, and stages of traces.

    python lab/proofs/telemetry.py [grpcio|native]

Needs Prometheus (Debian: `apt-get install --no-install-recommends prometheus`) and the extra `dev`.
Exits with 1 if something is missing or differs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2, training_pb2_grpc
from layerserve.v1 import training_pb2 as pb
from layerserve.values import tensors
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

CALLS, ROWS = 40, 3
SERVICE = "layerserve.v1.PredictionService"
STAGES = {"decode", "queue", "compute", "encode"}
PATIENCE_SECONDS = 60.0


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps the spans that are exported to it, by the id of their trace."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Any]] = {}
        self.services: set[str] = set()
        self._lock = threading.Lock()
        self._server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self._lock:
            for resource in request.resource_spans:
                about = {one.key: one.value.string_value for one in resource.resource.attributes}
                self.services.add(about["service.name"])
                for span in (span for scope in resource.scope_spans for span in scope.spans):
                    self.spans.setdefault(span.trace_id.hex(), []).append(span)
        return trace_service_pb2.ExportTraceServiceResponse()

    def stop(self) -> None:
        self._server.stop(0)


def traceparent(number: int) -> tuple[str, str]:
    """A sampled parent, with the number as the trace's id."""
    return "traceparent", f"00-{number:032x}-{number:016x}-01"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


def wait_for(what: str, condition: Any) -> Any:
    """Returns what the condition returns once it isn't empty. Exits if that takes too long."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not (found := condition()):
        if time.monotonic() > end:
            sys.exit(f"FAILED: {what} didn't come within {PATIENCE_SECONDS:g} seconds")
        time.sleep(0.2)
    return found


def check(what: str, got: object, expected: object) -> None:
    if got != expected:
        sys.exit(f"FAILED: {what}: got {got}, expected {expected}")
    print(f"ok: {what}: {got}")


def write_model(folder: Path) -> None:
    from layergraph import Input, Model
    from layergraph.layers import Dense

    x = Input((4,), name="x")
    model = Model(x, Dense(2, name="y")(x))
    model.compile("sgd", "mse")
    (folder / "small" / "1").mkdir(parents=True)
    model.save(folder / "small" / "1" / "model.keras")


@contextlib.contextmanager
def serving(folder: Path, transport: str, collector: int) -> Iterator[tuple[str, str, Path]]:
    """A server of two processes. Gives its address, that of its metrics, and the file of its log."""
    log = folder / "server.log"
    options = ["--workers", "2", "--transport", transport, "--grpc-port", "0", "--metrics-port", str(free_port())]
    options += ["--triton-metrics", "--tensorflow-serving-metrics", "--access-log", "1", "--log-format", "json"]
    options += ["--sample-models", "small=1", "--drain-seconds", "0", "--tuning-seconds", "0"]
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector}",
        "OTEL_SERVICE_NAME": "proof",
        "OTEL_TRACES_SAMPLER": "parentbased_always_off",
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    with log.open("wb") as output:
        command = [sys.executable, "-m", "layerserve_server", str(folder / "models"), *options]
        process = subprocess.Popen(command, env={**os.environ, **variables}, stderr=output)

    def ports() -> list[Any]:
        if process.poll() is not None:
            sys.exit(f"FAILED: the server ended: {log.read_text()}")
        return re.findall(r'"grpc_port": (\d+).*"metrics_port": (\d+)', log.read_text())

    try:
        ((grpc_port, metrics_port),) = wait_for("the server", ports)
        yield f"127.0.0.1:{grpc_port}", f"127.0.0.1:{metrics_port}", log
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def prometheus(folder: Path, metrics: str) -> Iterator[str]:
    """Prometheus, which reads both pages every second. Gives its address."""
    jobs = [("own", "/metrics"), ("tfserving", "/monitoring/prometheus/metrics")]
    config = folder / "prometheus.yml"
    scrapes = [
        {"job_name": name, "metrics_path": path, "static_configs": [{"targets": [metrics]}]} for name, path in jobs
    ]
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": scrapes}))
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'tsdb'}"]
    command += [f"--web.listen-address={address}", "--enable-feature=exemplar-storage", "--log.level=error"]
    process = subprocess.Popen(command)
    try:
        yield address
    finally:
        process.terminate()
        process.wait()


def query(address: str, expression: str) -> float | None:
    """The sum of an expression's values; None if there are none."""
    text = urllib.parse.urlencode({"query": f"sum({expression})"})
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/query?{text}", timeout=10) as reply:
            found = json.load(reply)["data"]["result"]
    except OSError:
        return None
    return float(found[0]["value"][1]) if found else None


def problems(address: str) -> list[str]:
    """What Prometheus reports of its targets."""
    with urllib.request.urlopen(f"http://{address}/api/v1/targets", timeout=10) as reply:
        targets = json.load(reply)["data"]["activeTargets"]
    return [f"{one['scrapeUrl']}: {one['health']} {one['lastError']}" for one in targets]


def exemplars(address: str) -> set[str]:
    """Ids of traces that Prometheus has with the latencies."""
    now = time.time()
    text = urllib.parse.urlencode({"query": "layerserve_request_seconds_bucket", "start": now - 600, "end": now})
    with urllib.request.urlopen(f"http://{address}/api/v1/query_exemplars?{text}", timeout=10) as reply:
        series = json.load(reply)["data"]
    return {one["labels"]["trace_id"] for each in series for one in each["exemplars"]}


def ask(address: str) -> None:
    """Sends calls over several connections, so that both processes get some, a stream, and a training run."""
    request = prediction_pb2.PredictRequest(
        model=tensor_pb2.ModelSpec(name="small"), inputs=[tensors.encode(np.ones((ROWS, 4), np.float32), "x")]
    )
    for number in range(1, CALLS + 1):
        with grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
            metadata = [traceparent(number), ("x-request-id", f"call-{number}")]
            stub = prediction_pb2_grpc.PredictionServiceStub(channel)
            _, call = stub.Predict.with_call(request, metadata=metadata, timeout=60)
            assert ("x-request-id", f"call-{number}") in call.trailing_metadata()
            # Without a parent nothing is sampled.
            stub.Predict(request, timeout=60)
    with grpc.insecure_channel(address) as channel:
        messages = [prediction_pb2.PredictStreamRequest(request=request)] * 2
        stream = prediction_pb2_grpc.PredictionServiceStub(channel).PredictStream
        assert len(list(stream(iter(messages), metadata=[traceparent(1001)], timeout=60))) == 2
        number = tensors.dtype_enum("float32")
        data = [pb.DataArray(role=role, dtype=number, shape=[8, width]) for role, width in ((1, 4), (2, 2))]
        # Not published: the metrics of a version that another replaces end with it.
        spec = pb.TrainSpec(model=tensor_pb2.ModelSpec(name="small"), data=data, epochs=3, publish=False)
        parts = [pb.DataChunk(array=index, data=bytes(32 * width)) for index, width in ((0, 4), (1, 2))]
        chunks = [pb.TrainRequest(chunk=part) for part in parts]
        train = training_pb2_grpc.TrainingServiceStub(channel).Train
        (*_, last) = train(iter([pb.TrainRequest(spec=spec), *chunks]), metadata=[traceparent(1002)], timeout=300)
        assert last.event.HasField("finished"), last


def check_traces(receiver: Receiver) -> None:
    expected = {f"{number:032x}" for number in (*range(1, CALLS + 1), 1001, 1002)}
    wait_for("all traces", lambda: expected <= receiver.spans.keys())
    wait_for("all spans", lambda: all(len(receiver.spans[f"{number:032x}"]) >= 5 for number in range(1, CALLS + 1)))
    wait_for("the run's span", lambda: len(receiver.spans[f"{1002:032x}"]) >= 2)
    wait_for("the stream's spans", lambda: len(receiver.spans[f"{1001:032x}"]) >= 11)
    time.sleep(1)
    check("traces without a parent", set(receiver.spans) - expected, set())
    check("services", receiver.services, {"proof"})
    for number in range(1, CALLS + 1):
        spans = {span.name: span for span in receiver.spans[f"{number:032x}"]}
        call = spans.pop(f"{SERVICE}/Predict")
        assert call.parent_span_id.hex() == f"{number:016x}"
        assert set(spans) == STAGES, spans
        for span in spans.values():
            assert span.parent_span_id == call.span_id
            assert call.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
            assert span.end_time_unix_nano <= call.end_time_unix_nano
    print(f"ok: {CALLS} calls with all of {', '.join(sorted(STAGES))} below the span of their caller's")
    streamed = Counter(span.name for span in receiver.spans[f"{1001:032x}"])
    expected_counts = {**dict.fromkeys([*STAGES, "request"], 2), f"{SERVICE}/PredictStream": 1}
    check("spans of a stream", dict(streamed), expected_counts)
    run = next(span for span in receiver.spans[f"{1002:032x}"] if span.name == "training")
    check("epochs of a run", [event.name for event in run.events].count("epoch"), 3)


def check_metrics(address: str) -> None:
    calls = 2 * CALLS
    ours = 'layerserve_requests_total{method="Predict",status="OK"}'
    theirs = '{__name__=":tensorflow:serving:request_count"}'
    end = time.monotonic() + PATIENCE_SECONDS
    while (seen := (query(address, ours), query(address, theirs))) != (calls, calls + 2):
        if time.monotonic() > end:
            sys.exit(f"FAILED: the last scrape: got {seen}, expected {(calls, calls + 2)}; {problems(address)}")
        time.sleep(0.5)
    time.sleep(3)
    streams = query(address, "layerserve_streamed_requests_total") or 0
    check("requests of streams", streams, 2)
    rows = query(address, "layerserve_rows_total")
    check("rows", rows, ROWS * (calls + streams))
    for name, expected in (
        ("nv_inference_request_success", calls + streams),
        ("nv_inference_request_failure", 0),
        ("nv_inference_count", rows),
        ("nv_inference_exec_count", query(address, "layerserve_compute_seconds_count")),
        ("nv_inference_pending_request_count", 0),
        (":tensorflow:serving:request_count", calls + streams),
        (":tensorflow:serving:request_example_count_total", rows),
        (":tensorflow:serving:request_latency_count", calls + streams),
    ):
        check(name, query(address, f'{{__name__="{name}"}}'), expected)
    seconds = query(address, "layerserve_queue_seconds_sum") or 0
    queued = query(address, "nv_inference_queue_duration_us") or 0
    check("nv_inference_queue_duration_us", round(queued), round(seconds * 1e6))
    found = exemplars(address)
    assert found, "no exemplars"
    assert found <= {f"{number:032x}" for number in (*range(1, CALLS + 1), 1001, 1002)}, found
    print(f"ok: Prometheus has {len(found)} exemplars")
    check("up", query(address, "up"), 2)


def main() -> None:
    transport = sys.argv[1] if sys.argv[1:] else "grpcio"
    receiver = Receiver()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_model(folder / "models")
        with serving(folder, transport, receiver.port) as (server, metrics, log):
            with prometheus(folder, metrics) as address:
                wait_for("Prometheus", lambda: query(address, "up") == 2)
                ask(server)
                check_traces(receiver)
                check_metrics(address)
            promtool(metrics)
        lines = [json.loads(line) for line in log.read_text().splitlines() if '"layerserve_server.access"' in line]
        named = [line for line in lines if line.get("request_id", "").startswith("call-")]
        mine = {line["request_id"]: line["trace_id"] for line in named}
        check("lines of the access log", len(mine), CALLS)
        assert all(mine[f"call-{number}"] == f"{number:032x}" for number in range(1, CALLS + 1))
        kept = [np.load(path) for path in (folder / "models" / ".layerserve" / "samples").glob("small/1/*.npz")]
        check("rows kept", sum(len(one["x"]) for one in kept), ROWS * (2 * CALLS + 2))
    receiver.stop()
    print(f"ok: {transport}")


def promtool(metrics: str) -> None:
    """Prometheus's own check of the page."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as reply:
        found = subprocess.run(["promtool", "check", "metrics"], input=reply.read(), capture_output=True)
    ours = [line for line in found.stderr.decode().splitlines() if not line.startswith("nv_")]
    print("promtool:", "; ".join(ours) or "nothing")


if __name__ == "__main__":
    main()

"""An honest caller: a process with connections of its own that does what clients and probes do, and keeps count."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import grpc
import numpy as np
from grpc_health.v1 import health_pb2
from layerserve.errors import REASON_KEY
from layerserve.v1.models_pb2 import ListModelsRequest
from layerserve.v1.prediction_pb2 import PredictRequest, PredictResponse
from layerserve.v1.tensor_pb2 import ModelSpec
from layerserve.v1.training_pb2 import ListRunsRequest
from layerserve.values.tensors import decode, encode

from attacks.server import http_status

#: Time between two calls, in seconds.
PREDICT_SECONDS = 0.02
CHECK_SECONDS = 0.1
LIST_SECONDS = 0.5
CONNECT_SECONDS = 0.5
PROBE_SECONDS = 0.5
#: Time that a call may take, in seconds.
TIMEOUT = 10.0

PREDICT = "/layerserve.v1.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
LIST_MODELS = "/layerserve.v1.ModelService/ListModels"
LIST_RUNS = "/layerserve.v1.TrainingService/ListRuns"
#: Sent with every call; a server without tokens ignores it.
TOKEN = (("authorization", "Bearer honest"),)
#: Every channel has a connection of its own.
OWN = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))


@dataclass(frozen=True)
class Record:
    """One call: when it began, and how it ended. `status` is "OK", or a status with its reason."""

    what: str
    began: float
    seconds: float
    status: str


@dataclass(frozen=True)
class Figures:
    """Calls within some time."""

    calls: int
    errors: Counter[str]
    #: Of Predict on its open connection, in seconds.
    p99: float

    @classmethod
    def of(cls, records: Sequence[Record], since: float, until: float) -> Figures:
        within = [one for one in records if since <= one.began and one.began + one.seconds <= until + TIMEOUT]
        within = [one for one in within if one.began < until]
        times = sorted(one.seconds for one in within if one.what == "Predict")
        errors = Counter(f"{one.what}: {one.status}" for one in within if one.status != "OK")
        return cls(len(within), errors, times[int(len(times) * 0.99)] if times else float("inf"))


class Honest:
    """The caller, seen from the process that starts it."""

    def __init__(self, target: str, http_port: int, model: str, row: np.ndarray) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_call, args=(target, http_port, model, row, there), daemon=True)
        self._process.start()
        if not self._here.poll(60):
            raise RuntimeError("the honest caller doesn't start")
        self._here.recv()

    def records(self) -> list[Record]:
        """All calls so far that have ended."""
        self._here.send("records")
        if not self._here.poll(60):
            raise RuntimeError("the honest caller hangs")
        found: list[Record] = self._here.recv()
        return found

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def _call(target: str, http_port: int, model: str, row: np.ndarray, there: Connection) -> None:
    records: list[Record] = []
    channel = grpc.insecure_channel(target, options=OWN)
    other = grpc.insecure_channel(target, options=OWN)
    request = PredictRequest(model=ModelSpec(name=model), inputs=[encode(row)]).SerializeToString()
    expected = decode(
        PredictResponse.FromString(channel.unary_unary(PREDICT)(request, timeout=60, metadata=TOKEN)).outputs[0]
    )

    def predict() -> str:
        reply = PredictResponse.FromString(channel.unary_unary(PREDICT)(request, timeout=TIMEOUT, metadata=TOKEN))
        same = np.allclose(decode(reply.outputs[0]), expected, rtol=1e-4, atol=1e-5)
        return "OK" if same else "other numbers"

    def check() -> str:
        reply = health_pb2.HealthCheckResponse.FromString(other.unary_unary(CHECK)(b"", timeout=TIMEOUT))
        return "OK" if reply.status == health_pb2.HealthCheckResponse.SERVING else "NOT_SERVING"

    def connect() -> str:
        with grpc.insecure_channel(target, options=OWN) as new:
            new.unary_unary(CHECK)(b"", timeout=TIMEOUT)
        return "OK"

    def list_models() -> str:
        other.unary_unary(LIST_MODELS)(ListModelsRequest().SerializeToString(), timeout=TIMEOUT, metadata=TOKEN)
        return "OK"

    def list_runs() -> str:
        other.unary_unary(LIST_RUNS)(ListRunsRequest().SerializeToString(), timeout=TIMEOUT, metadata=TOKEN)
        return "OK"

    def probe() -> str:
        statuses = [http_status(http_port, path, TIMEOUT) for path in ("/healthz", "/readyz")]
        return "OK" if statuses == [200, 200] else str(statuses)

    for what, seconds, work in (
        ("Predict", PREDICT_SECONDS, predict),
        ("Check", CHECK_SECONDS, check),
        ("new connection", CONNECT_SECONDS, connect),
        ("ListModels", LIST_SECONDS, list_models),
        ("ListRuns", LIST_SECONDS, list_runs),
        ("probe", PROBE_SECONDS, probe),
    ):
        threading.Thread(target=_repeat, args=(what, seconds, work, records), daemon=True).start()
    there.send("ready")
    while True:
        there.recv()
        there.send(list(records))


def _repeat(what: str, pause: float, work: Callable[[], str], records: list[Record]) -> None:
    while True:
        began = time.monotonic()
        try:
            status = work()
        except grpc.RpcError as error:
            metadata = dict(error.trailing_metadata() or ())
            status = f"{error.code().name} {metadata.get(REASON_KEY) or error.details()}"
        records.append(Record(what, began, time.monotonic() - began, status))
        time.sleep(max(0.0, pause - (time.monotonic() - began)))

"""Health by model: what Check and Watch report while a model is loaded, fails, is unloaded, and the server drains."""

from __future__ import annotations

import queue
import shutil
import threading
from importlib.util import find_spec

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from layerserve_server.access.caller import Caller
from layerserve_server.transport.health import HEALTH_NAME_LENGTH, MODEL_PREFIX, Health

TRANSPORTS = [
    "grpcio",
    pytest.param("native", marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="no pygrpc-native")),
]
SERVING, NOT_SERVING, UNKNOWN = "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"
name_of = health_pb2.HealthCheckResponse.ServingStatus.Name


def request(model):
    return health_pb2.HealthCheckRequest(service=f"layerserve.model/{model}")


class Watched:
    """The statuses that a watch reports, as they come."""

    def __init__(self, channel, model):
        self.call = health_pb2_grpc.HealthStub(channel).Watch(request(model), timeout=60)
        self._seen = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for reply in self.call:
                self._seen.put(name_of(reply.status))
        except grpc.RpcError as error:
            self._seen.put(error.code().name)

    def next(self):
        return self._seen.get(timeout=30)


def scan_twice(app):
    """A file counts as complete if it is the same at two scans."""
    app.repository.scan()
    app.repository.scan()


@pytest.fixture
def check(connect):
    def status(app, model):
        try:
            return name_of(health_pb2_grpc.HealthStub(connect(app)).Check(request(model), timeout=30).status)
        except grpc.RpcError as error:
            return error.code().name

    return status


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_watch_reports_load_failure_unload_and_drain(
    transport, put, start, connect, check, hold, load_fake, tmp_path
):
    put("other")
    loading = hold(load_fake)
    loading.may_go_on.set()
    app = start(load=loading, transport=transport)
    watched = Watched(connect(app), "double")
    assert watched.next() == UNKNOWN
    assert check(app, "double") == "NOT_FOUND"

    loading.may_go_on.clear()
    loading.called.clear()
    put("double")
    app.repository.scan()
    scan = threading.Thread(target=app.repository.scan)
    scan.start()
    assert loading.called.wait(30)
    assert watched.next() == NOT_SERVING
    assert check(app, "double") == NOT_SERVING
    loading.may_go_on.set()
    scan.join()
    assert watched.next() == SERVING
    assert check(app, "double") == SERVING

    put("double", 2, text="no model")
    put("broken", 1, text="no model")
    scan_twice(app)
    # Version 1 still answers.
    assert check(app, "double") == SERVING
    assert check(app, "broken") == NOT_SERVING

    shutil.rmtree(tmp_path / "models" / "double" / "1")
    app.repository.scan()
    assert watched.next() == NOT_SERVING
    put("double", 3)
    scan_twice(app)
    assert watched.next() == SERVING
    app.drain()
    assert watched.next() == NOT_SERVING
    assert check(app, "double") == NOT_SERVING
    shutil.rmtree(tmp_path / "models" / "double")
    app.repository.scan()
    assert watched.next() == UNKNOWN
    watched.call.cancel()


def test_watches_hold_no_threads_and_end_with_the_server(put, start, connect, wait_until):
    put("double")
    app = start()
    before = {thread.name for thread in threading.enumerate()}
    stub = health_pb2_grpc.HealthStub(connect(app))
    watches = [stub.Watch(request(name), timeout=60) for name in ["double"] * 40 + ["nothing"] * 40]
    assert {name_of(next(watch).status) for watch in watches} == {SERVING, UNKNOWN}
    names = {thread.name for thread in threading.enumerate()} - before
    assert not [name for name in names if not name.startswith(("Thread-", "_call_behavior"))], names
    health = app._transport._health
    assert len(health._watchers) == 80
    for watch in watches:
        watch.cancel()
    wait_until(lambda: not health._watchers)


@pytest.mark.parametrize("name", ["double/1", "Double", "", "/double"])
def test_other_names_are_unknown(name, put, start, check):
    put("double")
    assert check(start(), name) == "NOT_FOUND"


def test_a_model_may_have_the_name_of_a_service(put, start, connect, check):
    """Neither hides the other."""
    put("grpc.health.v1.Health", text="no model")
    app = start()
    assert check(app, "grpc.health.v1.Health") == NOT_SERVING
    service = health_pb2.HealthCheckRequest(service="layerserve.v1.PredictionService")
    assert name_of(health_pb2_grpc.HealthStub(connect(app)).Check(service, timeout=30).status) == SERVING


def test_a_name_that_is_too_long_is_refused(start, check, put):
    put("double")
    app = start()
    longest = HEALTH_NAME_LENGTH - len(MODEL_PREFIX)
    assert check(app, "x" * longest) == "NOT_FOUND"
    assert check(app, "x" * (longest + 1)) == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    ("caller", "expected"),
    [
        (Caller("all"), SERVING),
        (Caller("reader", ["read"]), SERVING),
        (Caller("other's", models=["other"]), UNKNOWN),
        (Caller("anonymous", [], named=False), UNKNOWN),
    ],
)
def test_the_health_of_a_model_is_for_callers_with_a_right_on_it(caller, expected):
    """Else anyone could find out which models exist."""
    health = Health([], lambda model: True)
    health.set(True)
    assert name_of(health._status("layerserve.model/double", caller)) == expected
    assert name_of(health._status("", caller)) == SERVING

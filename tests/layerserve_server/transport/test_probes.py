"""HTTP for operators: metrics, liveness and readiness."""

import http.client
import socket
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from layerserve_server.access.caller import ANYONE, Caller
from layerserve_server.observability.metrics import Metrics
from layerserve_server.transport import probes
from layerserve_server.transport.call import Ended
from layerserve_server.transport.probes import MetricPage, Probes
from prometheus_client.parser import text_string_to_metric_families


class Server:
    ready = True

    def __init__(self, *collectors):
        metrics = Metrics()
        metrics.version_failed("m", 1)
        for collector in collectors:
            metrics.registry.register(collector)
        self.probes = Probes(
            "127.0.0.1", 0, {"/metrics": MetricPage(metrics.registry)}, lambda: self.ready, lambda *_: ANYONE
        )

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.probes.port, timeout=30)
        connection.request("GET", path)
        reply = connection.getresponse()
        status, text = reply.status, reply.read().decode()
        connection.close()
        return status, text


@pytest.fixture
def server():
    found = Server()
    yield found
    found.probes.close()


def test_metrics_are_those_of_the_registry(server):
    status, text = server.get("/metrics")
    assert status == 200
    assert "layerserve_model_load_failures" in {family.name for family in text_string_to_metric_families(text)}


def test_metrics_of_models_are_shown_to_those_who_may_read_them():
    """Names of models and how much they are used are nothing for callers of other models."""
    metrics = Metrics()
    for model in ("own", "secret"):
        metrics.calls_ended([Ended("/layerserve.v1.PredictionService/Predict", model, "1", "OK", 0.1)])
        metrics.batches(model, 1).batch_ran(1, 1, 0.1)
        metrics.version_loaded(model, 1, 0.1)
    pages = {"/metrics": MetricPage(metrics.registry)}
    readers = {None: ANYONE, "own": Caller("a", ("read",), ("own",)), "no": Caller("b", ("read",), ())}
    probed = Probes("127.0.0.1", 0, pages, lambda: True, lambda _, token: readers[token])
    try:
        for token, expected in ((None, {"own", "secret"}), ("own", {"own"}), ("no", set())):
            for path in (*pages, "/metrics?name[]=layerserve_rows_total"):
                request = urllib.request.Request(f"http://127.0.0.1:{probed.port}{path}")
                if token:
                    request.add_header("Authorization", token)
                with urllib.request.urlopen(request, timeout=30) as reply:
                    page = reply.read().decode()
                assert {model for model in ("own", "secret") if model in page} == expected, path
                # What isn't of a model is shown to all.
                assert ("layerserve_calls_in_flight" in page) == ("name[]" not in path)
    finally:
        probed.close()


def test_pages_of_metrics_are_made_one_after_another():
    """Several threads with long pages would keep Python's lock from calls."""
    at_once, most = [], []

    class Slow:
        def collect(self):
            at_once.append(1)
            most.append(len(at_once))
            time.sleep(0.05)
            at_once.pop()
            return []

    server = Server(Slow())
    try:
        with ThreadPoolExecutor(4) as pool:
            statuses = [status for status, _ in pool.map(server.get, ["/metrics"] * 8)]
    finally:
        server.probes.close()
    assert statuses == [200] * 8
    assert most == [1] * 8


def test_it_lives_whether_or_not_it_is_ready(server):
    assert server.get("/healthz")[0] == server.get("/readyz")[0] == 200
    server.ready = False
    assert (server.get("/healthz")[0], server.get("/readyz")[0]) == (200, 503)


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/healthz/", "/anything"])
def test_other_paths_are_not_found(server, path):
    status, text = server.get(path)
    assert (status, "/readyz" in text) == (404, True)


def test_silent_connections_are_bounded_and_end(server, monkeypatch):
    monkeypatch.setattr(probes._Handler, "timeout", 0.3)
    silent = [socket.create_connection(("127.0.0.1", server.probes.port)) for _ in range(probes.MAX_CONNECTIONS + 8)]
    for connection in silent:
        connection.settimeout(30)
        # All are closed: the oldest at once, the others when their time is over.
        assert connection.recv(1) == b""
        connection.close()
    assert server.get("/healthz")[0] == 200


def test_probes_are_answered_beside_any_number_of_silent_and_slow_connections(server):
    """Else whoever holds connections open has the server's probes fail, and so its container killed."""
    before = threading.active_count()
    connections = []
    for number in range(3 * probes.MAX_CONNECTIONS):
        connections.append(socket.create_connection(("127.0.0.1", server.probes.port)))
        if number % 2:
            connections[-1].sendall(b"GET /met")
        if number % 16 == 0:
            assert server.get("/healthz")[0] == 200
    assert server.get("/readyz")[0] == 200
    assert threading.active_count() <= before + probes.MAX_CONNECTIONS + 8
    for connection in connections:
        connection.close()


def test_the_port_is_closed_in_the_end():
    server = Server()
    server.probes.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.probes.port, timeout=5)
    with pytest.raises(ConnectionRefusedError):
        connection.connect()


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"^can't listen on 127.0.0.1:{port} for metrics: is the port taken\\?$"):
            Probes("127.0.0.1", port, {}, lambda: True, lambda *_: ANYONE)


def test_connections_that_have_ended_take_no_place(server, monkeypatch):
    """However many have come and gone, one that stays open is left alone."""
    monkeypatch.setattr(probes, "MAX_CONNECTIONS", 8)
    with socket.create_connection(("127.0.0.1", server.probes.port), timeout=30) as stays:
        for _ in range(16):
            assert server.get("/healthz")[0] == 200
        stays.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 200 " in stays.makefile("rb").readline()

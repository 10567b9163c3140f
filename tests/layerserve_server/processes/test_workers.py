"""Several processes on one port: all answer Predict, one answers the rest; weights are shared, counts added up."""

import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from importlib.metadata import version
from itertools import chain
from pathlib import Path

import grpc
import numpy as np
import pytest
from attacks.frames import Wire, message
from authorities import Authority
from grpc_health.v1 import health_pb2, health_pb2_grpc
from http_calls import Http
from layergraph import Input, Model, load_model
from layergraph.layers import Conv2D, Dense, Flatten
from layerserve.v1 import (
    models_pb2,
    models_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
    tensor_pb2,
    training_pb2,
    training_pb2_grpc,
)
from layerserve.values import tensors
from layerserve_server.access.caller import ANYONE
from layerserve_server.access.gate import CERTIFICATE_KEY, Gate
from layerserve_server.access.group import SECRET_BYTES
from layerserve_server.extensions.installed import OWN, Settings
from layerserve_server.observability.metrics import Metrics
from layerserve_server.processes import supervisor
from layerserve_server.processes import worker as program
from layerserve_server.processes.supervisor import AllMetrics, Supervisor
from layerserve_server.transport.call import Ended
from layerserve_server.transport.ports import claim
from layerserve_server.transport.probes import MetricPage, Probes
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from tokens import bearer, write_tokens

X = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1) / 32


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.keras"
    inputs = Input((4, 4, 1), name="x")
    Model(inputs, Dense(3, name="y")(Flatten()(Conv2D(2, 3)(inputs)))).save(path)
    return path


@pytest.fixture(scope="module")
def serve(file):
    processes = []

    def start(state, *more):
        options = ["--workers", "2", "--no-warm-training", "--state", str(state), *map(str, more)]
        options += ["--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "layerserve_server", str(file), *options, "--tuning-seconds", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        for line in process.stderr:
            if found := re.search(r"gRPC on \S+:(\d+)(?:, HTTP on \S+:(\d+))?, metrics on (\S+);", line):
                process.http_port = found[2] and int(found[2])
                return process, int(found[1]), found[3]
        raise AssertionError

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def server(serve, state):
    """A server with HTTP, which SIGTERM ends."""
    process, port, metrics = serve(state, "--http-port", 0)
    yield process, port, metrics
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def request():
    return prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="m"), inputs=[tensors.encode(X, "x")])


def page_of(url):
    with urllib.request.urlopen(url, timeout=30) as reply:
        return reply.read().decode()


def counted(url, method="Predict"):
    """Calls of a method answered by all processes together."""
    counts = re.findall(rf'^layerserve_requests_total{{method="{method}",.*"OK".* (.*)$', page_of(url), re.MULTILINE)
    return sum(map(float, counts))


def children(process):
    """The processes that serve; the one that reads model files is none of them."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
    )
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if program.__name__ in line]


def check_process_metrics(process, url):
    """Those of both processes: one build, one start, and the files and processor time of both."""
    with urllib.request.urlopen(url, timeout=30) as reply:
        lines = reply.read().decode().splitlines()
    series = dict(line.rsplit(" ", 1) for line in lines if line.startswith(("process_", "layerserve_")))
    assert series[f'layerserve_build_info{{version="{version("layerserve")}"}}'] == "1.0"
    assert series["layerserve_ready"] == "1.0"
    assert abs(float(series["process_start_time_seconds"]) - time.time()) < 3600
    (worker,) = children(process)
    files = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (process.pid, worker)]
    assert float(series["process_open_fds"]) > max(files)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
@pytest.mark.parametrize("value", [b"\xff\xfe", "über".encode(), b"a\tb"], ids=["no UTF-8", "UTF-8", "a tab"])
def test_metadata_that_no_client_of_grpc_may_send_is_not_forwarded(server, value):
    """The library would end the forwarded call with INTERNAL."""
    _, port, _ = server
    statuses = set()
    # So many connections that some come to each process.
    for _ in range(12):
        with Wire(("127.0.0.1", port)).settle() as wire:
            number = wire.open("/layerserve.v1.ModelService/ListModels", (b"x-odd", value), (b"x-bin", b"AAE"))
            wire.give(number, message(b""), end=True)
            until = time.monotonic() + 30
            while not wire.answers[number].end and time.monotonic() < until:
                wire.read(0.5)
            statuses.add(wire.answers[number].status)
    assert statuses == {"0"}


INFER = {"inputs": [{"name": "x", "shape": [2, 4, 4, 1], "datatype": "FP32", "data": X.ravel().tolist()}]}


def in_process(port, pid):
    """A connection of HTTP that this process has."""
    for _ in range(60):
        call = Http(port)
        assert call("GET", "/healthz").status == 200
        if str(call._connection.sock.getsockname()[1]) in connected_ports(pid):
            return call
        call.close()
    raise AssertionError("the kernel gives it no connections")


def connected_ports(pid):
    """The ports of the clients of a process."""
    inodes = set()
    for file in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):  # it has just been closed
            inodes.add(os.readlink(file).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return {str(int(row[2].rpartition(":")[2], 16)) for row in rows if row[9] in inodes}


@pytest.fixture
def web(server):
    """The server, its worker, and the URL of its metrics."""
    process, _, metrics = server
    (worker,) = children(process)
    return process, worker, metrics


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
def test_every_process_answers_http_and_all_other_paths_are_the_owners(web, file):
    process, worker, metrics = web
    expected = load_model(file).predict(X).ravel()
    before = counted(metrics, "http:ModelInfer")
    replies = []
    for pid in (process.pid, worker):
        call = in_process(process.http_port, pid)
        found = []
        for _ in range(3):
            reply = call("POST", "/v2/models/m/infer", INFER)
            np.testing.assert_allclose(reply.json["outputs"][0]["data"], expected, atol=1e-5)
            if "tensorflow_serving" in OWN:  # it may have been deleted
                tensorflow = call("POST", "/v1/models/m:predict", {"instances": X.tolist()})
                np.testing.assert_allclose(np.ravel(tensorflow.json["predictions"]), expected, atol=1e-5)
            found.append((reply.status, reply.headers["layerserve-version"]))
            for verb, path, body in (
                ("GET", "/readyz", None),
                ("HEAD", "/readyz", None),
                ("GET", "/v2/models/m", None),
                ("GET", "/v2/models/nothing", None),
                ("GET", "/v2/models/m/infer", None),
                ("GET", "/nothing", None),
                ("GET", "/metrics", None),
                ("GET", "/openapi.json", None),
                ("GET", "/", None),
                ("GET", "/v2", None),
                ("POST", "/v2/repository/index", {"ready": True}),
                ("POST", "/v2/repository/index", {"ready": 1}),
                ("PUT", "/v2/repository/index", b"x" * 1_000_000),
            ):
                reply = call(verb, path, body)
                kept = {name: text for name, text in reply.headers.items() if name not in ("date", "x-request-id")}
                found.append((verb, path, reply.status, kept, re.sub(rb"page-secret[^>]*", b"", reply.body)))
        call.close()
        replies.append(found)
    assert replies[0] == replies[1]
    assert counted(metrics, "http:ModelInfer") == before + 6
    assert counted(metrics, "http:ServerMetadata") >= 6


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
def test_a_request_that_is_passed_on_is_read_and_answered_as_it_comes(web):
    """Bodies in chunks or that wait for a word, requests sent ahead, the last of a connection, and no HTTP at all."""
    pytest.importorskip("layerserve_server.extensions.triton")
    process, worker, _ = web
    index, body = b"POST /v2/repository/index HTTP/1.1\r\nhost: a\r\n", b'{"ready": true}'
    whole = index + b"content-length: %d\r\n\r\n" % len(body)
    chunked = index + b"transfer-encoding: chunked\r\n\r\n"
    infer = json.dumps(INFER).encode()
    predict = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n%s" % (len(infer), infer)
    last = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    for sent, statuses in (
        ([whole + body + predict + whole + body + last], [200] * 4),
        ([chunked + b"5\r\n" + body[:5] + b"\r\n", b"a\r\n" + body[5:] + b"\r\n0\r\n\r\n" + last], [200] * 2),
        ([whole[:-2] + b"expect: 100-continue\r\n\r\n", body + last], [100, 200, 200]),
        ([b"GET /readyz HTTP/1.0\r\n\r\n" + last], [200]),
        ([b"GET /readyz HTTP/1.1\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n" + last], [200, 200]),
        ([whole + b"{" * len(body) + last], [400, 200]),
        ([index + b"content-length: 3\r\ntransfer-encoding: chunked\r\n\r\n"], [400]),
        ([whole + body + b"no http\r\n\r\n"], [200, 400]),
    ):
        for pid in (process.pid, worker):
            call = in_process(process.http_port, pid)
            connection = call._connection.sock
            received = b""
            for part in sent:
                connection.sendall(part)
                if b"expect" in part:
                    received += connection.recv(65536)
            while piece := connection.recv(65536):
                received += piece
            # The reply to what is no HTTP may overtake that to the request before it.
            assert [int(one) for one in re.findall(rb"HTTP/1.1 (\d+)", received)] in (statuses, statuses[-1:])
            call.close()


CERTIFICATES = """
[[certificates]]
name = "shop"
rights = ["predict", "read"]
models = ["m"]
"""


@pytest.fixture(scope="module")
def guarded(serve, tmp_path_factory):
    """A server with HTTP, tokens and certificates, and the authority of these."""
    folder = tmp_path_factory.mktemp("guarded")
    authority = Authority(folder)
    tokens = write_tokens(folder / "tokens.toml", more=CERTIFICATES)
    tls = [("--" + name.replace("_", "-"), path) for name, path in authority.settings.items()]
    return *serve(folder, "--tokens", tokens, "--http-port", 0, *chain.from_iterable(tls)), authority


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
def test_every_process_admits_the_same_callers_and_none_can_be_deceived(guarded):
    process, port, metrics, authority = guarded
    assert len(children(process)) == 1
    options = [("grpc.use_local_subchannel_pool", 1)]
    shop, stranger = authority.client("shop"), authority.client("stranger")
    # What another process would add, with a secret that isn't that of the server.
    forged = [(CERTIFICATE_KEY, bytes(SECRET_BYTES) + b'["shop"]'), *Gate().stamped(["shop"])]
    denied, unknown = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED

    def statuses(credentials, metadata=()):
        """Of a call that the process itself answers, and of four that the owner answers."""
        with grpc.secure_channel(f"localhost:{port}", credentials, options) as channel:
            streamed = prediction_pb2.PredictStreamRequest(request=request())
            predict = prediction_pb2_grpc.PredictionServiceStub(channel)
            models = models_pb2_grpc.ModelServiceStub(channel)
            absent = models_pb2.GetModelRequest(model=tensor_pb2.ModelSpec(name="n"))
            runs = training_pb2_grpc.TrainingServiceStub(channel)
            calls = [
                predict.Predict.future(request(), metadata=metadata, timeout=30),
                predict.PredictStream(iter([streamed]), metadata=metadata, timeout=30),
                models.ListModels.future(models_pb2.ListModelsRequest(), metadata=metadata, timeout=30),
                models.GetModel.future(absent, metadata=metadata, timeout=30),
                runs.CancelRun.future(training_pb2.CancelRunRequest(run_id="x"), metadata=metadata, timeout=30),
            ]
            with suppress(grpc.RpcError):
                list(calls[1])
            return [call.code() for call in calls]

    ok = grpc.StatusCode.OK
    for _ in range(5):
        assert statuses(shop) == [ok, ok, ok, denied, denied]
        assert statuses(stranger) == [unknown] * 5
        for pair in forged:
            assert statuses(stranger, [pair]) == [unknown] * 5
        assert statuses(stranger, bearer("predict")) == [ok, ok, denied, grpc.StatusCode.NOT_FOUND, denied]
        assert statuses(shop, bearer("train")) == [denied] * 3 + [grpc.StatusCode.NOT_FOUND] * 2
        assert statuses(shop, bearer("wrong")) == [unknown] * 5

    def page(token):
        headers = {"Authorization": f"Bearer {token}"}
        with urllib.request.urlopen(urllib.request.Request(metrics, headers=headers), timeout=30) as reply:
            return reply.read().decode()

    # Counts of both processes, of which one asks the other.
    answered = re.search(
        r'layerserve_requests_total{method="Predict",model="m",status="OK",version="1"} (.*)', page("read")
    )
    assert float(answered[1]) == 10
    with pytest.raises(urllib.error.HTTPError, match="403"):
        page("predict")


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
def test_callers_over_http_have_the_same_rights_in_every_process(guarded):
    pytest.importorskip("layerserve_server.extensions.triton")
    process, _, _, authority = guarded
    (worker,) = children(process)

    def statuses(name, **headers):
        """Of a prediction and two requests that the owner answers; and whether the worker has the connection."""
        call = http.client.HTTPSConnection("localhost", process.http_port, timeout=30, context=contexts[name])
        found = []
        for verb, path in (("POST", "/v2/models/m/infer"), ("GET", "/v2/models/m"), ("GET", "/v2/logging")):
            call.request(verb, path, json.dumps(INFER) if verb == "POST" else None, headers)
            reply = call.getresponse()
            reply.read()
            found.append(reply.status)
            if reply.getheader("connection") == "close":
                call.close()
        own = call.sock is not None and str(call.sock.getsockname()[1]) in connected_ports(worker)
        call.close()
        return found, own

    contexts = {name: ssl.create_default_context() for name in ("shop", "stranger")}
    for name, context in contexts.items():
        authority.ca.configure_trust(context)
        authority.issue_client(name).configure_cert(context)
    forged = {"layerserve-peer": "ipv4:1.2.3.4", "layerserve-certificate-bin": '["shop"]'}
    taken = set()
    for _ in range(8):
        for sender, headers, expected in (
            ("shop", {}, [200, 200, 403]),
            ("stranger", {}, [401, 401, 401]),
            ("stranger", forged, [401, 401, 401]),
            ("shop", {"authorization": "Bearer manage"}, [403, 200, 200]),
            ("shop", {"authorization": "Bearer wrong"}, [401, 401, 401]),
        ):
            found, own = statuses(sender, **headers)
            assert found == expected
            taken.add(own)
    assert taken == {True, False}


def test_all_processes_map_the_same_weights_and_none_has_hdf5(server, state, wait_until):
    process, _, _ = server
    (arrays,) = (state / "imports").glob("*/arrays.safetensors")

    def maps():
        return [Path(f"/proc/{pid}/maps").read_text() for pid in (process.pid, *children(process))]

    wait_until(lambda: sum(str(arrays) in text for text in maps()) == 2)
    assert not [text for text in maps() if "hdf5" in text or "h5py" in text]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
def test_every_process_answers_and_one_that_dies_is_replaced(server, file):
    process, port, metrics = server
    expected = load_model(file).predict(X)
    options = [("grpc.use_local_subchannel_pool", 1)]

    def ask(count):
        for _ in range(count):
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
                response = prediction_pb2_grpc.PredictionServiceStub(channel).Predict(request(), timeout=30)
                np.testing.assert_allclose(tensors.decode(response.outputs[0]), expected, atol=1e-5)
                # What isn't Predict comes to the owner from whatever process took the connection.
                models = models_pb2_grpc.ModelServiceStub(channel)
                with pytest.raises(grpc.RpcError) as caught:
                    models.GetModel(models_pb2.GetModelRequest(model=tensor_pb2.ModelSpec(name="n")), timeout=30)
                assert caught.value.code() is grpc.StatusCode.NOT_FOUND
                assert dict(caught.value.trailing_metadata())["layerserve-reason"] == "model_not_found"
                streamed = prediction_pb2.PredictStreamRequest(request=request())
                (answer,) = prediction_pb2_grpc.PredictionServiceStub(channel).PredictStream(
                    iter([streamed]), timeout=30
                )
                np.testing.assert_allclose(tensors.decode(answer.response.outputs[0]), expected, atol=1e-5)
                health, model = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
                model.service = "layerserve.model/m"
                assert health.Check(model, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
                watch = health.Watch(model, timeout=30)
                assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
                watch.cancel()

    before = counted(metrics)
    ask(12)
    assert counted(metrics) == before + 12
    check_process_metrics(process, metrics)
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    while not [pid for pid in children(process) if pid != worker]:
        time.sleep(0.05)
    ask(4)


def test_counts_of_all_processes_are_added_up():
    class Others:
        def metrics(self):
            return other.collect()

    own, other = CollectorRegistry(), CollectorRegistry()
    for registry, count in ((own, 1), (other, 2)):
        Counter("calls", "Calls.", ("model",), registry=registry).labels("m").inc(count)
    Gauge("only_here", "One.", registry=own).set(5)
    whole = AllMetrics(own, Others())
    assert whole.get_sample_value("calls_total", {"model": "m"}) == 3
    assert whole.get_sample_value("only_here") == 5


@pytest.fixture
def processes(monkeypatch):
    """The processes of a server with so many workers, each of which is this program."""
    made = []

    def make_processes(program, count=2):
        monkeypatch.setattr(supervisor, "COMMAND", (sys.executable, "-c", program))
        monkeypatch.setattr(supervisor, "RESTART_SECONDS", 0.01)
        made.append(Supervisor(Settings(workers=count)))
        return made[-1]

    yield make_processes
    for each in made:
        each.stop(0.0)


def test_metrics_of_all_processes_are_one_text(processes):
    """As Prometheus reads it: every series once, histograms added up, and nobody who has just ended."""
    own, other = Metrics(), Metrics()
    for metrics, seconds in ((own, 0.1), (other, 1.0)):
        metrics.calls_ended([Ended("/a/Predict", "m", "1", "OK", seconds)])
        metrics.version_loaded("m", 1, seconds)
    other.version_failed("n", 1)
    probes = Probes("127.0.0.1", 0, {"/metrics": MetricPage(other.registry)}, lambda: True, lambda *_: ANYONE)
    both = processes("")
    # Bound, so that no other process gets the port, and refused, as nothing listens.
    with socket.socket() as gone:
        gone.bind(("127.0.0.1", 0))
        both._metrics_ports = {0: probes.port, 1: gone.getsockname()[1]}
        lines = generate_latest(AllMetrics(own.registry, both)).decode().splitlines()
    probes.close()
    series = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert len(series) == len([line for line in lines if not line.startswith("#")])
    at = 'method="Predict",model="m"'
    assert float(series[f'layerserve_requests_total{{{at},status="OK",version="1"}}']) == 2
    assert float(series[f"layerserve_request_seconds_sum{{{at}}}"]) == 1.1
    assert [float(series[f'layerserve_request_seconds_bucket{{le="{le}",{at}}}']) for le in ("0.05", "0.1", "1.0")] == [
        *(0, 1, 2),
    ]
    assert float(series['layerserve_model_load_failures_total{model="n"}']) == 1
    assert len({line for line in lines if line.startswith("# TYPE")}) == sum(
        line.startswith("# TYPE") for line in lines
    )
    assert not any("_created" in line for line in lines)


def test_metrics_of_a_worker_that_is_too_busy_stay_as_they_were(processes, monkeypatch):
    """Without them the sums would fall, which reads as a restart."""
    own, other = Metrics(), Metrics()
    other.version_loaded("m", 1, 1.0)
    slow, go = threading.Event(), threading.Event()
    other.before_collect(lambda: slow.is_set() and go.wait(30))
    probes = Probes("127.0.0.1", 0, {"/metrics": MetricPage(other.registry)}, lambda: True, lambda *_: ANYONE)
    both = processes("")
    both._metrics_ports = {0: probes.port}
    page = generate_latest(AllMetrics(own.registry, both))
    assert b'layerserve_model_loads_total{model="m"} 1.0' in page
    slow.set()
    monkeypatch.setattr(supervisor, "METRICS_SECONDS", 0.1)
    assert generate_latest(AllMetrics(own.registry, both)) == page
    go.set()
    probes.close()
    # Nor if it ends in the middle of its answer.
    with socket.create_server(("127.0.0.1", probes.port)) as server:
        thread = threading.Thread(target=_answer_by_half, args=(server,))
        thread.start()
        monkeypatch.setattr(supervisor, "METRICS_SECONDS", 30)
        assert generate_latest(AllMetrics(own.registry, both)) == page
        thread.join()
    # What has ended counts no more.
    both._metrics_ports = {}
    assert b"layerserve_model_loads_total" not in generate_latest(AllMetrics(own.registry, both))


def _answer_by_half(server):
    with server.accept()[0] as connection:
        connection.recv(1 << 16)
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n[")


#: A worker that takes its orders, says so, and ends when it is told to.
OBEDIENT = """
import json, sys
orders = json.loads(sys.stdin.readline())
print(json.dumps({"metrics_port": orders["settings"]["grpc_port"]}), flush=True)
sys.stdin.readline()
"""


def test_workers_get_their_orders_and_those_that_end_are_replaced(processes, wait_until, caplog):
    both = processes(OBEDIENT, count=3)
    both.start(4321, -1)
    assert both._metrics_ports == {0: 4321, 1: 4321}
    first = both._processes[0]
    first.kill()
    wait_until(lambda: both._processes[0] is not first and 0 in both._metrics_ports)
    assert "a worker process ended with status -9; restarting it" in caplog.text
    ended = list(both._processes.values())
    both.stop(5.0)
    assert [process.returncode for process in ended] == [0, 0]
    assert not both.socket.parent.exists()


def test_workers_that_refuse_calls_pass_on_replies_until_the_first_process_has_ended(processes):
    both = processes(OBEDIENT + "raise SystemExit(len(sys.stdin.readlines()))")
    both.start(1, -1)
    (process,) = both._processes.values()
    both.refuse(5.0)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    both.refuse(1.0)
    both.stop(1.0)
    assert process.returncode == 2, "one line for each further grace period"


def test_a_worker_that_does_not_end_is_killed(processes, monkeypatch):
    monkeypatch.setattr(supervisor, "END_SECONDS", 0.1)
    both = processes(OBEDIENT + "import time; time.sleep(60)")
    both.start(1, -1)
    (process,) = both._processes.values()
    both.stop(0.0)
    assert process.returncode == -signal.SIGKILL


def test_a_port_to_share_must_be_free():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}"):
            claim("127.0.0.1", port)

"""A whole server: ports, metrics, a version that takes over, TLS, draining."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from importlib.metadata import version
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from clocks import replace_time
from grpc_health.v1 import health_pb2, health_pb2_grpc
from layerserve.v1 import models_pb2, models_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.app import App
from layerserve_server.commands import serving
from layerserve_server.commands.serving import serve, started, welcome
from layerserve_server.core_protocols import CORE_PROTOCOLS
from layerserve_server.datasets.store import DatasetStore
from layerserve_server.engines.tuner import Tuner
from layerserve_server.extensions.installed import Settings
from layerserve_server.inference import runner
from layerserve_server.repository import layout
from layerserve_server.wiring import Inference
from left_folders import left_behind

X = np.ones((2, 2), np.float32)


def predict(channel, x=X):
    message = prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="double"), inputs=[tensors.encode(x, "x")])
    return prediction_pb2_grpc.PredictionServiceStub(channel).Predict(message, timeout=30)


def test_a_new_version_takes_over_by_itself(put, start, connect):
    put(version=1)
    channel = connect(start(poll_seconds=0.05))
    assert predict(channel).model.version == 1
    put(version=2, offset=5)
    while predict(channel).model.version == 1:
        pass
    assert predict(channel).model.version == 2


def test_metrics_are_served_over_http(put, start, connect, wait_until):
    put()
    app = start(metrics_port=0)
    predict(connect(app))

    def read():
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=30) as response:
            return response.read().decode()

    # A call is counted after its reply has been sent.
    wait_until(lambda: "layerserve_requests_total{" in read())
    text = read()
    for line in (
        'layerserve_requests_total{method="Predict",model="double",status="OK",version="1"} 1.0',
        'layerserve_rows_total{model="double",version="1"} 2.0',
        'layerserve_batch_rows_count{model="double",version="1"} 1.0',
        'layerserve_queue_seconds_count{model="double",version="1"} 1.0',
        'layerserve_compute_seconds_count{model="double",version="1"} 1.0',
        'layerserve_model_loads_total{model="double"} 1.0',
        'layerserve_model_loaded{model="double",version="1"} 1.0',
        'layerserve_training_runs{state="running"} 0.0',
        f'layerserve_build_info{{version="{version("layerserve")}"}} 1.0',
        "process_start_time_seconds ",
        "process_cpu_seconds_total ",
        "process_resident_memory_bytes ",
        "process_open_fds ",
    ):
        assert line in text


def test_names_that_no_model_has_make_no_time_series(put, start, connect, wait_until):
    put()
    app = start()
    for name in ("a", "b"):
        with pytest.raises(grpc.RpcError):
            prediction_pb2_grpc.PredictionServiceStub(connect(app)).Predict(
                prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name=name)), timeout=30
            )
    labels = {"method": "Predict", "model": "", "version": "", "status": "NOT_FOUND"}
    wait_until(lambda: app.metrics.registry.get_sample_value("layerserve_requests_total", labels) == 2)


def test_while_draining_health_says_no_and_calls_are_answered(put, start, connect):
    put()
    app = start()
    channel = connect(app)
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=30).status == health_pb2.HealthCheckResponse.SERVING
    assert app.metrics.registry.get_sample_value("layerserve_ready") == 1
    app.drain()
    assert app.metrics.registry.get_sample_value("layerserve_ready") == 0
    request = health_pb2.HealthCheckRequest(service="layerserve.v1.PredictionService")
    assert health.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert predict(channel).model.version == 1


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_health_says_no_until_the_models_that_are_there_have_been_read(put, load_fake, connect, tmp_path, transport):
    if transport == "native":
        pytest.importorskip("pygrpc_native")
    put()
    loading, gate = threading.Event(), threading.Event()

    def load(path):
        loading.set()
        assert gate.wait(30)
        return load_fake(path)

    settings = Settings(
        path=tmp_path / "models",
        host="127.0.0.1",
        grpc_port=0,
        metrics_port=-1,
        transport=transport,
        warm_training=False,
    )
    app = App(settings.model_copy(update={"warm_training": False}), load)
    starting = threading.Thread(target=app.start)
    starting.start()
    try:
        assert loading.wait(30)
        channel = connect(app)
        health = health_pb2_grpc.HealthStub(channel)
        asked = [health_pb2.HealthCheckRequest(service=name) for name in ("", "layerserve.v1.PredictionService")]
        for request in asked:
            answer = health.Check(request, timeout=30, wait_for_ready=True)
            assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            predict(channel)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        gate.set()
        starting.join(30)
        for request in asked:
            assert health.Check(request, timeout=30).status == health_pb2.HealthCheckResponse.SERVING
        assert predict(channel).model.version == 1
    finally:
        gate.set()
        starting.join(30)
        app.stop()


def test_while_it_starts_calls_are_refused_for_now(put, make_server, connect, starting, hold, monkeypatch):
    put()
    app = make_server(metrics_port=0)
    scan = hold(app.repository.scan)
    monkeypatch.setattr(app.repository, "scan", scan)
    with starting(app, scan) as finish:
        channel = connect(app)
        health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        models = models_pb2_grpc.ModelServiceStub(channel)
        for ask in (
            lambda: predict(channel),
            lambda: models.ListModels(models_pb2.ListModelsRequest(), timeout=30),
            lambda: models.GetModel(models_pb2.GetModelRequest(model=tensor_pb2.ModelSpec(name="double")), timeout=30),
        ):
            with pytest.raises(grpc.RpcError, match="the server is starting") as caught:
                ask()
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        with urllib.request.urlopen(f"http://127.0.0.1:{app.metrics_port}/metrics", timeout=30) as response:
            assert b"layerserve_requests_total" in response.read()
        finish()
        assert predict(channel).model.version == 1


def test_a_port_answers_before_the_engine_is_imported(put, make_server, connect, starting, hold, monkeypatch):
    put()
    app = make_server()
    make_ready = hold(runner.make_ready)
    monkeypatch.setattr(runner, "make_ready", make_ready)
    with starting(app, make_ready):
        health = health_pb2_grpc.HealthStub(connect(app)).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING


def test_engines_are_timed_once_the_server_serves(put, make_server, connect, starting, hold, monkeypatch):
    """Timings beside the loading of other models would be those of a busy machine."""
    put()
    tuned = threading.Event()
    monkeypatch.setattr(Tuner, "_tune", lambda tuner, loaded, seconds: tuned.set())
    app = make_server(tuning_seconds=1.0)
    finding = hold(app.runs.start)
    monkeypatch.setattr(app.runs, "start", finding)
    with starting(app, finding) as finish:
        assert predict(connect(app)).model.version == 1
        assert not app._inference.tuner._thread.is_alive()
        finish()
        assert tuned.wait(30)


def test_methods_that_list_everything_are_declared_as_lists(make_server, put, monkeypatch):
    """Of these one call runs at a time. Lists of one run's files are short. Extensions test theirs."""
    monkeypatch.setattr("layerserve_server.app.ALL", CORE_PROTOCOLS)
    taken, listen = [], Inference.listen

    def listening(inference, routes, *arguments, **options):
        taken.append(routes)
        return listen(inference, routes, *arguments, **options)

    monkeypatch.setattr(Inference, "listen", listening)
    put()
    make_server()
    (routes,) = taken
    names = {method.rpartition("/")[2] for method in routes.unary}
    everything = {name for name in names if re.match(r"List|.*(Statistics|Index)$", name)}
    declared = {method.rpartition("/")[2] for method in routes.lists}
    assert declared == everything - {"ListRunFiles"} | {"GetNodeShapes"}


def test_a_repository_that_can_not_be_read_is_told_at_the_start(put, start, monkeypatch):
    put()

    def fail(*arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(layout, "find_in_folder", fail)
    with pytest.raises(OSError, match=r"can't read the repository: .*Permission denied"):
        start()


@pytest.mark.parametrize("found", [[], ["mine", "yours"]])
def test_plugins_that_were_loaded_are_told_of(put, start, monkeypatch, caplog, found):
    put()
    monkeypatch.setattr(runner, "load_plugins", lambda modules: found if modules == "mine, yours" else None)
    with caplog.at_level("INFO"):
        start(plugins="mine, yours")
    assert [text for text in caplog.messages if "custom layers" in text] == (
        ["custom layers: mine, yours"] if found else []
    )


def test_a_server_that_can_not_start_lets_go_of_what_it_has(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    stopped = []
    monkeypatch.setattr(App, "start", lambda app: 1 / 0)
    stop = App.stop
    monkeypatch.setattr(App, "stop", lambda app: stopped.append(app) or stop(app))
    with pytest.raises(ZeroDivisionError):
        started(Settings(path=tmp_path / "models", host="127.0.0.1", grpc_port=0, metrics_port=-1, warm_training=False))
    assert len(stopped) == 1


def test_a_path_that_is_not_there_is_told(tmp_path):
    with pytest.raises(ValueError, match="nowhere: no such folder or model file"):
        App(Settings(path=tmp_path / "nowhere"))


def test_a_gpu_that_is_not_there_is_told_at_the_start(put, start):
    put()
    with pytest.raises(ValueError, match=r"training_device: got 'cuda:99', expected ('cpu'|one of the \d+ CUDA)"):
        start(training_device="cuda:99")


def test_a_file_that_is_no_model_is_told(tmp_path):
    path = tmp_path / "model.txt"
    path.touch()
    with pytest.raises(ValueError, match=r"model.txt isn't a model file: expected suffix .h5, .hdf5, .keras"):
        App(Settings(path=path, grpc_port=0))


def test_a_file_whose_name_is_none_for_a_model_is_told(tmp_path):
    path = tmp_path / "-odd name.keras"
    path.touch()
    with pytest.raises(ValueError, match=r"-odd name.keras: expected a model name of letters, digits, '.', '_'"):
        App(Settings(path=path, grpc_port=0))


def test_tls(put, start, tmp_path):
    put()
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    made = subprocess.run(
        (
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes "
            f"-keyout {key} -out {certificate} -subj /CN=localhost -addext subjectAltName=DNS:localhost"
        ).split(),
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("openssl makes no certificate here")
    app = start(tls_certificate=certificate, tls_key=key)
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    with grpc.secure_channel(
        f"127.0.0.1:{app.grpc_port}", credentials, [("grpc.ssl_target_name_override", "localhost")]
    ) as channel:
        assert predict(channel).model.version == 1


# The process.


@pytest.fixture
def process(tmp_path):
    """A server process of an empty repository."""
    (tmp_path / "models").mkdir()
    started = []

    def start_process(*flags, program=""):
        command = [sys.executable, *(("-c", program) if program else ("-m", "layerserve_server"))]
        command += [str(tmp_path / "models"), "--host", "127.0.0.1"]
        command += ["--grpc-port", "0", "--metrics-port", "-1", "--log-format", "json", *flags]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        started.append(process)
        return process

    yield start_process
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


def port_of(process):
    for line in process.stderr:
        if line.startswith("{") and json.loads(line)["message"] == "serving":
            return json.loads(line)["grpc_port"]
    raise AssertionError("the server didn't start")


def list_models(port):
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return models_pb2_grpc.ModelServiceStub(channel).ListModels(models_pb2.ListModelsRequest(), timeout=30)


def test_the_first_line_of_the_log_names_the_path(process, tmp_path):
    lines = (line for line in process().stderr if line.startswith("{"))
    assert json.loads(next(lines))["message"] == f"starting with {tmp_path / 'models'}"


def test_sigterm_ends_a_server_without_clients_well_and_at_once(process):
    server = process("--grace-seconds", "60", "--no-warm-training")
    assert len(list_models(port_of(server)).versions) == 0
    server.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert server.wait(30) == 0
    assert time.monotonic() - began < 4


def test_sigterm_ends_a_server_that_is_still_starting(process, tmp_path, monkeypatch):
    # Imports take most of the time of a start.
    (tmp_path / "prometheus_client.py").write_text("import time\nprint('slow', flush=True)\ntime.sleep(200)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, sys.path)]))
    server = process()
    assert "slow" in (json.loads(line)["message"] for line in server.stderr)
    server.send_signal(signal.SIGTERM)
    assert server.wait(30) == 0
    assert "had not started yet" in server.stderr.read()


#: A server whose models never end loading.
SLOW_LOADS = """
import sys, time
from layerserve_server.commands import serve
from layerserve_server.engines.model_loader import ModelLoader

def load(self, path, model=None):
    print("loads a model", file=sys.stderr, flush=True)
    time.sleep(600)

ModelLoader.__call__ = load
sys.exit(serve(sys.argv[1:]))
"""


@pytest.mark.parametrize("starting", [False, True])
def test_sigterm_ends_a_server_that_loads_models(process, put, tmp_path, monkeypatch, starting):
    def put_two():
        for name in ("one", "two"):
            put(name)

    if starting:
        put_two()
    server = process("--poll-seconds", "0.05", "--no-warm-training", "--tuning-seconds", "0", program=SLOW_LOADS)
    if not starting:
        port_of(server)
        put_two()
    for line in server.stderr:
        if "loads a model" in line:
            break
    server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
    assert ("had not started yet" if starting else "any longer for a scan of the repository") in server.stderr.read()


def test_check_config_prints_and_exits(tmp_path, capsys):
    assert serve([str(tmp_path), "--check-config", "--grpc-port", "1"]) == 0
    assert "grpc_port = 1\n" in capsys.readouterr().out


def test_check_config_fails_on_a_path_that_is_not_there(tmp_path, capsys):
    assert serve([str(tmp_path / "nowhere"), "--check-config"]) == 2
    assert serve([str(tmp_path), "--data-root", str(tmp_path / "none"), "--check-config"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert re.search("PATH .*nowhere.*\n--data-root .*none.*\n", shown.err)


def test_wrong_settings_end_with_status_2(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("layerserve_server.observability.logs.set_up", lambda level, kind, stream: None)
    assert serve(["--grpc-port", "x"]) == 2
    assert "--grpc-port" in capsys.readouterr().err
    assert serve([str(tmp_path / "nowhere"), "--grpc-port", "0", "--metrics-port", "-1"]) == 2
    assert "no such folder or model file" in capsys.readouterr().err


@pytest.fixture
def not_started(monkeypatch):
    """A server that is to be refused before torch is imported."""
    monkeypatch.setattr("layerserve_server.observability.logs.set_up", lambda level, kind, stream: None)
    monkeypatch.setattr(serving, "started", lambda settings: pytest.fail("it was started"))


def test_a_port_that_another_server_has_is_told_at_once(put, start, tmp_path, capsys, not_started):
    put()
    app = start(metrics_port=0)
    flags = [str(tmp_path), "--grpc-port", str(app.grpc_port), "--metrics-port", str(app.metrics_port)]
    assert serve(flags) == 2
    taken = f"layerserve serve: can't listen on 127.0.0.1:{app.grpc_port}: another process has the port"
    assert capsys.readouterr().err.splitlines() == [
        f"{taken}, a server that serves; stop it first, or set another --grpc-port",
        f"layerserve serve: can't listen on 127.0.0.1:{app.metrics_port}: another process has the port; stop it "
        "first, or set another --metrics-port",
    ]
    app.drain()
    assert serve([*flags[:3], "--metrics-port", "-1"]) == 2
    step = "a server that starts or stops; try again when it has ended, or set another --grpc-port"
    assert capsys.readouterr().err == f"{taken}, {step}\n"


def test_a_missing_extra_is_told_at_once(tmp_path, capsys, not_started, monkeypatch):
    monkeypatch.setitem(sys.modules, "httptools", None)
    flags = [str(tmp_path), "--http-port", "0", "--grpc-port", "0", "--metrics-port", "-1"]
    for more in ([], ["--check-config"]):
        assert serve([*flags, *more]) == 2
        assert "--http-port (LAYERSERVE_HTTP_PORT, 'http_port' in the file): requires httptools" in (
            capsys.readouterr().err
        )


class Draining:
    """A server that drains on a clock: gives how long, in seconds, while a client is connected for some of them."""

    def __init__(self, monkeypatch, **settings):
        self.now = 100.0
        self.settings = Settings(**settings)
        self.grpc_port, self.http_port = 1, 2
        self.connected_until = 100.0
        self.signal_at = math.inf
        replace_time(monkeypatch, serving, monotonic=lambda: self.now)
        monkeypatch.setattr(serving.ports, "connected", self.connected)

    def connected(self, numbers):
        assert numbers == {1, 2}
        return self.now < self.connected_until

    def drain(self):
        pass

    def wait(self, seconds):
        self.now += seconds
        return signal.SIGTERM if self.now >= self.signal_at else None

    def takes(self, connected=0.0):
        self.connected_until = self.now + connected
        began = self.now
        self.ended_by = serving._drain(self, self)
        return self.now - began


@pytest.mark.parametrize(
    ("settings", "connected", "seconds"),
    [
        # Only processes of this machine could come, and one that isn't connected needs no time to leave.
        ({}, 0, 0),
        ({"host": "::1"}, 0, 0),
        ({}, 2, 2),
        ({}, 60, 5),
        # New clients come until balancers and probes have noticed: open connections say little.
        ({"host": "0.0.0.0", "allow_anonymous": "read"}, 0, 5),
        ({"host": "0.0.0.0", "allow_anonymous": "read", "drain_seconds": 10}, 0, 10),
        # A proxy may be in front.
        ({"drain_seconds": 3}, 0, 3),
        ({"drain_seconds": 0}, 60, 0),
        # Whether clients are connected isn't known.
        ({"host": "unix:/run/s"}, 0, 5),
    ],
)
def test_a_drain_takes_as_long_as_clients_need(monkeypatch, settings, connected, seconds):
    assert Draining(monkeypatch, **settings).takes(connected) == pytest.approx(seconds, abs=serving.CHECK_SECONDS)


@pytest.mark.parametrize("settings", [{}, {"drain_seconds": 9}])
def test_a_signal_cuts_a_drain_short(monkeypatch, settings):
    server = Draining(monkeypatch, **settings)
    server.signal_at = 100.2
    server.takes(60)
    assert server.ended_by is signal.SIGTERM


@pytest.mark.parametrize(
    ("tls", "ports"),
    [
        (None, "HTTP on http://127.0.0.1:81, metrics on http://127.0.0.1:82/metrics; Ctrl-C stops"),
        ("c.pem", "HTTP on https://127.0.0.1:81, metrics on"),
    ],
)
def test_the_first_lines_name_the_models_and_the_ports(put, make_server, tls, ports):
    put()
    server = make_server()
    settings = server.settings.model_copy(update={"tls_certificate": tls})
    app = SimpleNamespace(settings=settings, repository=server.repository, grpc_port=80, http_port=81, metrics_port=82)
    server.repository.open()
    first, model, last = welcome(app).splitlines()
    assert first == f"layerserve {version('layerserve')}: 1 model in {settings.path}"
    assert model.split() == ["double", "version", "1", "ready"]
    assert last.startswith(f"gRPC on 127.0.0.1:80, {ports}")
    app.repository = SimpleNamespace(catalogue=SimpleNamespace(describe=lambda: []))
    app.http_port = app.metrics_port = -1
    first, none, last = welcome(app).splitlines()
    assert first == f"layerserve {version('layerserve')}: 0 models in {settings.path}"
    assert none == "  no models yet; a NAME/1/model.keras or NAME.keras that is added is served automatically"
    assert last == "gRPC on 127.0.0.1:80; Ctrl-C stops"


def test_before_it_serves_a_server_sets_its_threads_and_removes_what_others_left(put, start, tmp_path, monkeypatch):
    put()
    left = left_behind(tmp_path / "models" / "double")
    threads, swept = [], []
    monkeypatch.setattr(runner, "set_threads", threads.append)
    monkeypatch.setattr(DatasetStore, "sweep", lambda store, used_by: swept.append(used_by("0")))
    start(compute_threads=3)
    assert threads == [3]
    assert not left.exists()
    assert swept == [""]


def test_the_uses_of_models_are_written_at_the_end(put, start, connect, tmp_path):
    put()
    app = start(max_model_bytes=10**12, state=tmp_path / "state")
    predict(connect(app))
    app.stop()
    assert json.loads((tmp_path / "state" / "usage.json").read_text()).keys() == {"double"}

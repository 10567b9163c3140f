"""Wiring: every setting reaches what it sets, and a stop ends everything."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from types import SimpleNamespace
from unittest.mock import MagicMock

import grpc
import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server import wiring
from layerserve_server.access.balances import Balances
from layerserve_server.access.group import ProcessGroup
from layerserve_server.app import dataset_limits, run_defaults, run_limits
from layerserve_server.engines.model_loader import ModelLoader
from layerserve_server.engines.tuner import Tuner
from layerserve_server.extensions.extension import Extension, Part
from layerserve_server.extensions.installed import EXTENSIONS, Settings
from layerserve_server.importing.imports import Imports
from layerserve_server.inference import runner
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.observability.metrics import Metrics
from layerserve_server.processes import worker
from layerserve_server.processes.supervisor import Supervisor
from layerserve_server.repository.model_settings import ModelSettings
from layerserve_server.settings.settings import Settings as CoreSettings
from layerserve_server.wiring import (
    ALL,
    Inference,
    limits,
    make_certificates,
    make_gate,
    make_queue,
    queue_limits,
    routes_of,
)

#: Nothing is done in another process.
JOBS = Jobs()

#: One value for each, of which none is a default or another's.
LIMITS = {
    "max_message_bytes": 2001,
    "rpc_threads": 11,
    "max_streams": 12,
    "max_calls": 13,
    "max_peer_streams": 14,
    "max_buffered_bytes": 2002,
    "stream_idle_seconds": 1.5,
    "stalled_seconds": 2.5,
    "handshake_seconds": 3.5,
    "connection_idle_seconds": 4.5,
    "keepalive_seconds": 5.5,
    "keepalive_timeout_seconds": 6.5,
    "max_connection_age_seconds": 7.5,
    "max_connection_age_grace_seconds": 8.5,
    "max_connections": 15,
    "max_peer_connections": 18,
    "max_connection_calls": 16,
    "max_resets_per_second": 17,
}


def test_what_the_transport_takes():
    assert asdict(limits(Settings(**LIMITS))) == LIMITS


def test_memory_for_callers_is_shared_out_between_processes(monkeypatch):
    monkeypatch.setattr(wiring, "default_limit", lambda: 900)
    assert limits(Settings()).max_buffered_bytes == 900
    assert limits(Settings(workers=3)).max_buffered_bytes == 300
    assert limits(Settings(workers=3, max_buffered_bytes=2)).max_buffered_bytes == 1
    assert limits(Settings(workers=3, max_buffered_bytes=77)).max_buffered_bytes == 25


def test_what_training_runs_may_take():
    settings = Settings(
        training_slots=3,
        max_queued_runs=4,
        max_run_bytes=5,
        max_kept_runs=6,
        cancel_grace_seconds=7.5,
        training_resume="manual",
        max_workers=8,
        max_written_bytes=2003,
    )
    assert asdict(run_limits(settings)) == {
        "slots": 3,
        "max_queued": 4,
        "max_bytes": 5,
        "max_kept": 6,
        "cancel_grace_seconds": 7.5,
        "auto_resume": False,
        "max_workers": 8,
        "max_written": 2003,
    }
    assert run_limits(Settings()).auto_resume


def test_what_datasets_may_take():
    settings = Settings(max_dataset_bytes=3, dataset_seconds=4.5, dataset_upload_seconds=5.5)
    assert asdict(dataset_limits(settings)) == {"max_bytes": 3, "keep_seconds": 4.5, "upload_seconds": 5.5}


def test_how_runs_are_carried_out(tmp_path):
    settings = Settings(
        training_threads=3,
        training_device="cuda:1",
        training_nice=4,
        checkpoint_seconds=5.5,
        data_root=tmp_path,
    )
    found = run_defaults(settings)
    assert (found.threads, found.device, found.nice) == (3, "cuda:1", 4)
    assert (found.checkpoint_seconds, found.data_root) == (5.5, tmp_path)


@pytest.mark.parametrize(("cores", "half"), [(None, 1), (1, 1), (2, 1), (5, 2), (16, 8)])
def test_training_takes_half_of_the_cores(monkeypatch, cores, half):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert run_defaults(Settings()).threads == half


def test_a_queue_has_its_name_bounds_metrics_and_padding():
    metrics, padded = Metrics(), []
    settings = Settings(max_batch_rows=3, max_queue_rows=5, pad_sequences="text-*, other")
    run = SimpleNamespace(pad_sequences=lambda: padded.append(1))
    queue = make_queue(settings, metrics, "text-a", 4, run)
    make_queue(settings, metrics, "text", 4, run)
    assert (queue._name, queue._execute, queue.max_batch_rows, queue.max_queue_rows) == (
        *("model 'text-a' version 4", run, 3, 5),
    )
    assert padded == [1]
    queue._observer.batch_ran(2, 1, 0.5)
    queue._queued_rows = 6
    labels = {"model": "text-a", "version": "4"}
    sample = metrics.registry.get_sample_value
    assert sample("layerserve_rows_total", labels) == 2
    assert sample("layerserve_queue_rows", labels) == 6


@pytest.mark.parametrize(("server", "model", "tuned"), [("auto", None, 1), ("eager", None, 0), ("eager", "auto", 1)])
def test_a_version_is_tuned_unless_its_engine_is_named(tmp_path, load_fake, monkeypatch, server, model, tuned):
    found = []
    tuner = SimpleNamespace(submit=found.append)
    monkeypatch.setattr(wiring, "make_tuner", lambda settings, jobs, imports: tuner)
    inference = Inference(Settings(path=tmp_path, engine=server), load_fake, JOBS)
    inference.repository.loader._ready(SimpleNamespace(settings=ModelSettings(engine=model)))
    assert len(found) == tuned


def test_a_model_has_settings_of_its_own():
    settings = Settings(max_batch_rows=3, max_queue_rows=5, pad_sequences="text-*")
    assert queue_limits(settings, ModelSettings()) == (3, 5)
    model = ModelSettings(max_batch_rows=7, max_queue_rows=9, nice=4)
    assert queue_limits(settings, model) == (7, 9)
    padded = []
    run = SimpleNamespace(pad_sequences=lambda: padded.append(1))
    for name, pads, count in (("text-a", None, 1), ("text-a", False, 1), ("b", None, 1), ("b", True, 2)):
        queue = make_queue(settings, Metrics(), name, 1, run, model.model_copy(update={"pad_sequences": pads}))
        assert len(padded) == count
    assert (queue.max_batch_rows, queue.max_queue_rows, queue._nice) == (7, 9, 4)


def test_what_admits_callers(tmp_path, monkeypatch):
    file = tmp_path / "tokens.toml"
    file.touch()
    made = []
    monkeypatch.setattr(wiring, "Gate", lambda *given, **options: made.append((given, options)))
    monkeypatch.setattr(wiring, "Certificates", lambda *given, **options: made.append((given, options)))
    metrics = Metrics()
    tls = {name: tmp_path / name for name in ("tls_certificate", "tls_key", "tls_client_ca")}
    settings = Settings(tokens=file, allow_anonymous="read", **tls)
    group = ProcessGroup()
    make_gate(settings, metrics, group)
    make_certificates(settings, metrics)
    (given, options), (files, others) = made
    assert given == (file,)
    assert options.pop("reread") == metrics.access_reread
    assert options == {
        "certificates": True,
        "anonymous": {"read"},
        "rights": wiring.RIGHTS,
        "kinds": wiring.VERIFIERS,
        "group": group,
    }
    assert files == tuple(tls.values())
    others["reread"](False)
    assert metrics.registry.get_sample_value("layerserve_access_stale", {"what": "certificate"}) == 1
    assert make_certificates(Settings(), metrics) is None


def test_a_server_has_its_settings(make_server, put, tmp_path):
    put()
    settings = {"max_old_versions": 5, "poll_seconds": 4.0, "max_kept_runs": 3, "tuning_seconds": 1.0}
    server = make_server(state=tmp_path / "state", **settings)
    repository = server.repository
    assert (repository._options.max_old_versions, repository.folder._settle_seconds) == (5, 8.0)
    assert server.runs.table.folder == tmp_path / "state" / "runs"
    assert server.runs.table._max_kept == 3
    assert server._watcher._poll_seconds == 4.0
    assert server.runs.table._observer is repository._observer is server.metrics
    assert repository.loader._ready == server._inference._ready
    assert server._inference.tuner is not None


def handles_of_this_process():
    """The descriptors, by what they are of: sockets, files and pipes."""
    found = []
    for handle in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the listing
            found.append(os.readlink(f"/proc/self/fd/{handle}").partition(":[")[0])
    return Counter(found)


#: Settings that turn on what extensions add.
EXTENSIONS_ON = {
    name: True
    for name, field in Settings.model_fields.items()
    if name not in CoreSettings.model_fields and field.annotation is bool
}


@pytest.mark.parametrize("transport", ["grpcio", "native"])
def test_a_server_that_has_stopped_leaves_nothing_behind(
    make_server, put, tmp_path, monkeypatch, wait_until, transport
):
    if transport == "native":
        pytest.importorskip("pygrpc_native")
    put()
    # Not below tmp_path, whose path may be too long for a socket.
    temporary = tempfile.mkdtemp()
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    monkeypatch.setattr(Tuner, "_tune", lambda tuner, loaded, seconds: None)
    options = {"http_port": 0, "metrics_port": 0, "access_log": 1.0, **EXTENSIONS_ON}

    def lifetime():
        server = make_server(transport=transport, tuning_seconds=1.0, state=tmp_path / "state", **options)
        server.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2", timeout=30) as reply:
            assert reply.status == 200
        request = prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="double"))
        request.inputs.append(tensors.encode(np.ones((1, 2), np.float32), "x"))
        with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
            prediction_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
        server.stop()

    lifetime()  # what libraries make once for the process
    handles, before = handles_of_this_process(), set(threading.enumerate())
    lifetime()
    wait_until(lambda: set(threading.enumerate()) <= before)
    wait_until(lambda: not handles_of_this_process() - handles)
    assert os.listdir(temporary) == []
    os.rmdir(temporary)


#: Methods of parts that neither start nor end the part.
OF_REQUESTS = {("predictor", "start"), ("datasets", "close")}


def test_every_part_is_started_and_ended_in_order(make_server, put, tmp_path, monkeypatch):
    """The parts are found among the server's attributes: one that is added has to be ended, too."""
    put()
    options = {"http_port": 0, "metrics_port": 0, "workers": 2, "warm_training": True, "access_log": 1.0}
    parts, calls = {}, []
    starts, stops = (partial(calls.append, ("an extension", method)) for method in ("start", "stop"))
    extension = Extension(name="an extension", main=lambda core: Part(start=starts, stop=stops))
    monkeypatch.setattr("layerserve_server.app.ALL", [*ALL, extension])
    server = make_server(**options, tuning_seconds=1.0, max_model_bytes=10**12)
    server._imports = Imports(tmp_path / "imports", server._jobs)  # which fake models don't need

    def watch(owner):
        for name, part in vars(owner).items():
            for method in {"start", "refuse", "stop", "close"} & set(dir(part)):
                call = (name, method)
                if call not in parts and call not in OF_REQUESTS:
                    parts[call] = getattr(part, method)
                    monkeypatch.setattr(part, method, partial(noted, call))

    def noted(call, *arguments):
        if call == ("_http", "stop"):
            time.sleep(0.1)  # beside the other transport, and waited for
        if call[0] not in ("_workers", "_jobs"):  # those are processes
            parts[call](*arguments)
        calls.append(call)

    watch(server)
    watch(server._inference)
    server.start()
    watch(server)  # the port of the metrics
    server.stop()
    assert {*calls} == {*parts, ("an extension", "start"), ("an extension", "stop")}
    in_order = [("_workers", "refuse"), ("_transport", "stop"), ("_workers", "stop"), ("_http", "stop")]
    assert [call for call in calls if call in in_order] == in_order
    assert calls.index(("_http", "stop")) < calls.index(("an extension", "stop")) < calls.index(("runs", "stop"))
    assert calls.index(("runs", "stop")) < calls.index(("_jobs", "close"))


def test_the_configuration_of_a_worker_is_the_settings_of_its_server(tmp_path):
    settings = Settings(
        path=tmp_path,
        workers=2,
        data_root=tmp_path / "data",
        tokens=tmp_path / "t.toml",
        compute_threads=3,
        grpc_port=0,
        max_batch_rows=7,
    )
    processes = Supervisor(settings)
    processes._ports = {"grpc_port": 4321, "http_port": 4322}
    configuration = json.loads(json.dumps(processes._configuration()))
    there = Settings.model_construct(**worker._settings(configuration["settings"]))
    assert there.model_dump() == {**settings.model_dump(), "grpc_port": 4321, "http_port": 4322}
    assert configuration["socket"] == str(processes.socket)
    assert bytes.fromhex(configuration["secret"]) == processes.group.secret
    assert processes.group.balances.stat().st_size
    assert processes.group.balances.parent == processes.socket.parent
    assert configuration["spare_imports"] == str(processes.spare_imports)
    assert processes.socket.parent.is_dir()
    processes.stop(0.0)
    assert not processes.socket.parent.exists()


class Front:
    """In a transport's place: notes how it was made, and what it is told."""

    def __init__(self, routes, metrics, limits, **options):
        self.routes, self.metrics, self.limits, self.options = routes, metrics, limits, options
        self.memory, self.told = SimpleNamespace(used=123, limit=456), []

    def start(self):
        self.told.append("start")

    def stop(self, grace):
        self.told.append(("stop", grace))

    def models_changed(self):
        """Nobody watches."""


@pytest.mark.parametrize(
    ("name", "line", "grace"),
    [("GrpcioServer", "2.5\n", 2.5), ("NativeServer", "0.0\n", 0.0), ("GrpcioServer", "", 0.0)],
)
def test_a_worker_answers_predict_as_its_server_would_until_its_input_ends(
    put, load_fake, tmp_path, monkeypatch, name, line, grace
):
    put(version=1)
    tls = {} if name == "NativeServer" else {"tls_certificate": tmp_path / "c.pem", "tls_key": tmp_path / "k.pem"}
    monkeypatch.setattr(wiring, "Certificates", lambda chain, key, ca, **options: (chain, key, ca))
    transport = "native" if name == "NativeServer" else "grpcio"
    expected_limits = LIMITS | ({"max_connection_age_seconds": 0.0} if transport == "native" else {})
    settings = Settings(
        path=tmp_path / "models",
        host="127.0.0.1",
        grpc_port=4321,
        transport=transport,
        compute_threads=3,
        max_old_versions=5,
        poll_seconds=4.0,
        plugins="mine",
        tuning_seconds=1.0,
        **tls,
        **expected_limits,
    )
    made = {"GrpcioServer": [], "NativeServer": [], "Repository": [], "Watcher": []}
    done = []

    def watched(module, kind, known):
        def make(*arguments, **options):
            made[kind].append(known(*arguments, **options))
            return made[kind][-1]

        monkeypatch.setattr(module, kind, make)

    for module, kind, known in (
        (wiring, "GrpcioServer", Front),
        (wiring, "NativeServer", Front),
        (wiring, "Repository", wiring.Repository),
        (worker, "Watcher", worker.Watcher),
    ):
        watched(module, kind, known)
    for function in ("set_threads", "load_plugins", "make_ready"):
        monkeypatch.setattr(runner, function, lambda *given, name=function: done.append((name, *given)))
    monkeypatch.setattr(worker.logs, "set_up", lambda *given: done.append(("logs", *given)))
    monkeypatch.setattr(signal, "signal", lambda *given: done.append(given))
    imports = SimpleNamespace(sha256=wiring.sha256, load=None, close=lambda: done.append("closed"))
    monkeypatch.setattr(worker, "make_imports", lambda settings, jobs, spare: done.append(spare) or imports)

    def make_loader(settings, jobs, imports):
        done.append(("imports", imports))
        return ModelLoader(settings, jobs, load_fake, imports)

    monkeypatch.setattr(worker, "ModelLoader", make_loader)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    tuned = []
    tuner = SimpleNamespace(
        submit=lambda version: tuned.append(version.version),
        start=lambda: tuned.append("start"),
        close=lambda: tuned.append("close"),
    )
    made_tuner = {"grpcio": tuner}
    monkeypatch.setattr(wiring, "make_tuner", lambda settings, jobs, imports: made_tuner.get(settings.transport))
    of_extension = {call: partial(done.append, ("an extension", call)) for call in ("start", "scan", "stop")}
    extension = Extension(name="an extension", serving=lambda process: Part(**of_extension))
    monkeypatch.setattr(wiring, "ALL", [*ALL, extension])
    served = []

    class Orders(io.StringIO):
        """What the server tells: the orders, and when the worker serves (and so reads on) that it is to end."""

        def __iter__(self):
            if served:  # in a thread beside the end, for a shorter grace period or the input's end
                return
            assert made[name][0].told == ["start"]
            assert made["Watcher"][0]._thread.is_alive()
            assert of_extension["scan"] in made["Watcher"][0]._scans
            port = json.loads(sys.stdout.getvalue())["metrics_port"]
            for page in ("metrics", "readyz"):
                own = {"Authorization": ProcessGroup(b"\xab" * 32).authorization}
                request = urllib.request.Request(f"http://127.0.0.1:{port}/{page}", headers=own)
                with urllib.request.urlopen(request, timeout=30) as reply:
                    served.append(reply.read().decode())
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30)
            with made["Repository"][0].leases.lease("double") as version:
                served.append(version)
            yield from iter(self.readline, "")
            assert not line, "it waits for more, and its server for its end"

    socket = str(tmp_path / "socket")
    files = {"socket": socket, "spare_imports": str(tmp_path / "spare"), "secret": "ab" * 32}
    files |= {"catalogue": None, "in_force": {}}
    Balances.create(tmp_path / "balances")
    configuration = json.dumps({"settings": settings.model_dump(mode="json"), **files})
    monkeypatch.setattr(sys, "stdin", Orders(f"{configuration}\n{line}"))
    worker.main(sys.stdout)

    assert done == [
        (signal.SIGINT, signal.SIG_IGN),
        ("logs", "info", "text"),
        tmp_path / "spare",
        ("imports", imports),
        ("set_threads", 3),
        ("load_plugins", "mine"),
        ("make_ready",),
        ("an extension", "start"),
        ("an extension", "stop"),
        "closed",
    ]
    assert [len(each) for each in made.values()] == [name == "GrpcioServer", name == "NativeServer", 1, 2]
    ((front,), (repository,), (watcher, access_watcher)) = made[name], made["Repository"], made["Watcher"]
    predict, infer = "/layerserve.v1.PredictionService/Predict", "/inference.GRPCInferenceService/ModelInfer"
    of_extensions = routes_of(one.serving(MagicMock()) for one in EXTENSIONS).unary
    assert sorted(front.routes.unary) == sorted([infer, predict, *of_extensions])
    assert front.routes.prompt == set(front.routes.unary)
    assert front.routes.streams == {}
    assert asdict(front.limits) == expected_limits
    assert front.options.pop("gate")._group == ProcessGroup.of(tmp_path, b"\xab" * 32)
    # The repository is closed.
    assert front.options.pop("models")("double") is None
    assert front.options.pop("telemetry") is None
    shared = front.options.pop("shared")
    assert (shared.socket, shared.owner, shared.ended.wait(30)) == (tmp_path / "socket", False, True)
    assert not access_watcher._thread.is_alive()
    assert front.options == {
        "host": "127.0.0.1",
        "port": 4321,
        "certificates": (tmp_path / "c.pem", tmp_path / "k.pem", None) if tls else None,
    }
    assert front.told == ["start", ("stop", grace)]
    assert tuned == ([1, "start", "close"] if transport == "grpcio" else [])
    assert (repository._options.max_old_versions, repository.folder._settle_seconds) == (5, 8.0)
    assert repository._observer is front.metrics
    assert watcher._poll_seconds == 4.0
    assert not watcher._thread.is_alive()
    metrics, ready, version = served
    assert 'layerserve_model_loaded{model="double",version="1"} 1.0' in metrics
    assert "layerserve_buffered_bytes 123.0" in metrics
    assert "layerserve_buffered_limit_bytes 456.0" in metrics
    assert ready
    assert version.retired
    assert version.queue._name == "model 'double' version 1"
    assert version.queue._execute is version.runner

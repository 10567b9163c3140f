"""Several processes on one port: all answer Predict, one answers the rest; weights are shared, counts added up."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from layergraph import Input, Model, load_model
from layergraph.layers import Conv2D, Dense, Flatten
from layerserve import tensors
from layerserve.v1 import models_pb2, models_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve_server import sharing
from layerserve_server.sharing import SharedWeights
from layerserve_server.transport.grpcio import claim
from layerserve_server.workers import AllMetrics
from prometheus_client import CollectorRegistry, Counter, Gauge

X = np.arange(32, dtype=np.float32).reshape(2, 4, 4, 1) / 32


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.keras"
    inputs = Input((4, 4, 1), name="x")
    Model(inputs, Dense(3, name="y")(Flatten()(Conv2D(2, 3)(inputs)))).save(path)
    return path


@pytest.fixture
def serve(file, tmp_path):
    processes = []

    def start():
        options = ["--workers", "2", "--state", str(tmp_path), "--no-probe-files"]
        options += ["--host", "127.0.0.1", "--grpc-port", "0", "--metrics-port", "0", "--drain-seconds", "0"]
        process = subprocess.Popen(
            [sys.executable, "-m", "layerserve_server", str(file), *options, "--tuning-seconds", "0"],
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        for line in process.stderr:
            if found := re.search(r"gRPC on \S+:(\d+), metrics on (\S+);", line):
                return process, int(found[1]), found[2]
        raise AssertionError

    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stderr.close()


def request():
    return prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="m"), inputs=[tensors.encode(X, "x")])


def counted(url):
    """Predicts answered by all processes together."""
    with urllib.request.urlopen(url, timeout=30) as reply:
        text = reply.read().decode()
    (line,) = [
        line for line in text.splitlines() if re.match(r'layerserve_requests_total{method="Predict",.*"OK"', line)
    ]
    return float(line.split()[-1])


def children(process):
    listed = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(pid) for pid in listed.stdout.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel spreads connections over processes")
def test_every_process_answers_and_one_that_dies_is_replaced(serve, file):
    process, port, metrics = serve()
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

    ask(12)
    assert counted(metrics) == 12
    (worker,) = children(process)
    os.kill(worker, signal.SIGKILL)
    while not [pid for pid in children(process) if pid != worker]:
        time.sleep(0.05)
    ask(4)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0


def test_weights_are_mapped_by_all_who_load_the_file(file, tmp_path):
    expected = load_model(file).predict(X)
    for _ in range(2):
        model = load_model(file)
        own = [weight.numpy() for weight in model.weights]
        SharedWeights(tmp_path).adopt(model, file)
        (shared,) = tmp_path.iterdir()
        assert str(shared) in Path(f"/proc/{os.getpid()}/maps").read_text()
        for weight, before in zip(model.weights, own, strict=True):
            np.testing.assert_array_equal(weight.numpy(), before)
        np.testing.assert_allclose(model.predict(X), expected, atol=1e-6)


def test_what_one_process_writes_no_other_sees(file, tmp_path):
    first, second = load_model(file), load_model(file)
    for model in (first, second):
        SharedWeights(tmp_path).adopt(model, file)
    before = second.weights[0].numpy()
    first.weights[0].assign(before + 1)
    np.testing.assert_array_equal(second.weights[0].numpy(), before)


def test_without_room_a_model_keeps_its_own_weights(file, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(sharing.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    model = load_model(file)
    SharedWeights(tmp_path).adopt(model, file)
    assert list(tmp_path.iterdir()) == []
    assert "no room to share" in caplog.text


def test_a_changed_file_has_other_weights(file, tmp_path):
    copy = tmp_path / "m.keras"
    for _ in range(2):
        copy.unlink(missing_ok=True)
        copy.write_bytes(file.read_bytes())
        (tmp_path / "shared").mkdir(exist_ok=True)
        SharedWeights(tmp_path / "shared").adopt(load_model(copy), copy)
        os.utime(copy, ns=(0, time.time_ns()))
    assert len(list((tmp_path / "shared").iterdir())) == 2


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


def test_a_port_to_share_must_be_free():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}"):
            claim("127.0.0.1", port)

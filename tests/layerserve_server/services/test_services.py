"""The prediction and model services through a real port, with a model that needs no engine."""

from __future__ import annotations

import hashlib
import random
import threading
from importlib.util import find_spec

import grpc
import numpy as np
import pytest
from layerserve import Client
from layerserve.v1 import models_pb2, models_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors


def request(x, name="double", outputs=(), version=None, label=None, input_name="x", id=""):
    model = tensor_pb2.ModelSpec(name=name, version=version, label=label)
    return prediction_pb2.PredictRequest(model=model, inputs=[tensors.encode(x, input_name)], outputs=outputs, id=id)


@pytest.fixture
def serve(put, start, connect):
    """A server of 'double', with its model and its prediction stub."""

    def serve_double(fields=None, **settings):
        put("double", **(fields or {}))
        app = start(**settings)
        with app.repository.leases.lease("double") as version:
            model = version.model
        return app, model, prediction_pb2_grpc.PredictionServiceStub(connect(app))

    return serve_double


TRANSPORTS = [
    "grpcio",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="pygrpc-native isn't installed"),
    ),
]
X = np.arange(6, dtype=np.float32).reshape(3, 2)


def test_predict_answers_with_version_outputs_and_id(serve):
    _, _, stub = serve()
    response = stub.Predict(request(X, id="abc"), timeout=30)
    assert (response.model.name, response.model.version, response.id) == ("double", 1, "abc")
    assert [tensor.name for tensor in response.outputs] == ["y"]
    np.testing.assert_array_equal(tensors.decode(response.outputs[0]), X * 2)


def test_outputs_come_in_the_order_asked_for(serve):
    _, _, stub = serve()
    response = stub.Predict(request(X, outputs=["hidden", "y"]), timeout=30)
    assert [tensor.name for tensor in response.outputs] == ["hidden", "y"]
    np.testing.assert_array_equal(tensors.decode(response.outputs[0]), X * 2 + 100)


def test_an_output_that_is_asked_for_twice_is_refused(serve):
    """Else a small request makes a reply as large as its caller likes."""
    _, model, stub = serve()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request(X, outputs=["y", "hidden", "y"]), timeout=30)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "output 'y': given 2 times" in caught.value.details()
    assert model.batches == []


def test_zero_rows_give_zero_rows(serve):
    _, _, stub = serve()
    response = stub.Predict(request(X[:0]), timeout=30)
    assert tensors.decode(response.outputs[0]).shape == (0, 2)


INVALID, NOT_FOUND = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    ("message", "code", "word", "text"),
    [
        (request(X, name="doubel"), NOT_FOUND, "model_not_found", "did you mean 'double'?"),
        (request(X, name="../../etc"), NOT_FOUND, "model_not_found", "unknown model '../../etc'"),
        (request(X, name=""), INVALID, "invalid_request", "model: got no name"),
        (request(X, version=7), NOT_FOUND, "version_not_found", "model 'double' has no version 7; it has 1"),
        (request(X, label="stable"), NOT_FOUND, "label_not_found", "unknown label 'stable'"),
        (request(X, outputs=["z"]), INVALID, "unknown_output", "unknown tensor 'z'"),
        (request(X, input_name="z"), INVALID, "unknown_input", "unknown input 'z'"),
        (request(X[:, :1]), INVALID, "invalid_tensor", "input 'x': got length 1 on axis 1"),
        (request(X - 9), INVALID, "invalid_tensor", "got id -9, expected 0 or more"),
        (
            prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="double")),
            INVALID,
            "missing_input",
            "missing input 'x'",
        ),
        (
            prediction_pb2.PredictRequest(
                model=tensor_pb2.ModelSpec(name="double"), inputs=[tensor_pb2.Tensor(name="x", dtype=11, shape=[3, 2])]
            ),
            INVALID,
            "invalid_tensor",
            "got 0 bytes of data, expected 24",
        ),
        (
            prediction_pb2.PredictRequest(
                model=tensor_pb2.ModelSpec(name="double"), inputs=[tensor_pb2.Tensor(name="x", shape=[3, 2])]
            ),
            INVALID,
            "invalid_tensor",
            "got no dtype",
        ),
    ],
)
def test_bad_requests_are_told_what_is_wrong(serve, message, code, word, text):
    _, _, stub = serve()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(message, timeout=30)
    assert caught.value.code() is code
    assert dict(caught.value.trailing_metadata())["layerserve-reason"] == word
    assert text in caught.value.details()
    stub.Predict(request(X), timeout=30)


def test_bytes_that_are_no_message_are_refused(serve, connect):
    app, _, _ = serve()
    call = connect(app).unary_unary("/layerserve.v1.PredictionService/Predict")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"\xff\xff\xff", timeout=30)
    assert caught.value.code() is INVALID
    assert caught.value.details() == "the message isn't a valid PredictRequest"


def test_a_version_that_failed_to_load_is_a_failed_precondition(serve, put):
    app, _, stub = serve()
    put("bad", text="{")
    app.repository.scan()
    app.repository.scan()
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request(X, name="bad"), timeout=30)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "model 'bad' version 1 failed to load: model.keras: the file is truncated" in caught.value.details()


def test_only_the_caller_with_wrong_content_fails(serve):
    _, model, stub = serve()
    model.gate.clear()
    first = stub.Predict.future(request(X), timeout=30)
    others = [stub.Predict.future(request(X + i), timeout=30) for i in range(3)]
    bad = stub.Predict.future(request(X - 9), timeout=30)
    model.gate.set()
    for i, future in enumerate([first, *others]):
        np.testing.assert_array_equal(tensors.decode(future.result().outputs[0]), (X + max(0, i - 1)) * 2)
    with pytest.raises(grpc.RpcError):
        bad.result()


def test_a_full_queue_refuses_at_once_with_a_hint(serve, wait_until):
    app, model, stub = serve(max_queue_rows=3)
    model.gate.clear()
    running = stub.Predict.future(request(X), timeout=30)
    wait_until(lambda: model.begun)
    waiting = stub.Predict.future(request(X), timeout=30)
    labels = {"model": "double", "version": "1"}
    wait_until(lambda: app.metrics.registry.get_sample_value("layerserve_queue_rows", labels) == 3)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request(X), timeout=30)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert int(dict(caught.value.trailing_metadata())["grpc-retry-pushback-ms"]) > 0
    model.gate.set()
    assert running.result().outputs[0].shape == waiting.result().outputs[0].shape == [3, 2]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_requests_that_are_alike_are_joined_and_each_gets_its_own_rows(serve, connect, transport):
    """Many calls at once on each of 8 connections, alike but for their numbers and ids; some go away, some are bad."""
    app, model, stub = serve(max_batch_rows=16, transport=transport)
    for _ in range(3):  # from the third one on the model is known to be quick, and the request by its bytes
        stub.Predict(request(X, id="00-00"), timeout=30)
    wrong, answered, refused = [], [], []

    def run(number):
        stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
        choose = random.Random(number)
        for turn in range(6):
            futures = []
            for place in range(20):
                x = np.full((3, 2), number * 1000 + turn * 100 + place, np.float32)
                bad = choose.random() < 0.1
                id = f"{number:02}-{place:02}"
                future = stub.Predict.future(request(-1 - x if bad else x, id=id), timeout=60)
                if choose.random() < 0.1:
                    future.cancel()
                else:
                    futures.append((x, bad, id, future))
            for x, bad, id, future in futures:
                if bad:
                    refused.append(future.exception().code())
                    continue
                response = future.result()
                answered.append(id)
                if response.id != id or not np.array_equal(tensors.decode(response.outputs[0]), x * 2):
                    wrong.append((number, turn, id))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert len(answered) > 500
    assert set(refused) == {INVALID}
    # They were joined, in whole requests.
    assert max(model.batches) > 3
    assert {rows % 3 for rows in model.batches} == {0}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_requests_that_must_be_converted_or_are_long_are_answered_again_and_again(serve, transport):
    _, _, stub = serve(transport=transport)
    long = np.arange(300_000, dtype=np.float32).reshape(-1, 2)
    for _ in range(3):
        for x in (X.astype(np.float64), X, long, long.astype(np.float64), X[:1]):
            response = stub.Predict(request(x), timeout=30)
            np.testing.assert_array_equal(tensors.decode(response.outputs[0]), x.astype(np.float32) * 2)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_new_version_answers_also_those_that_are_known_by_their_bytes(serve, put, transport):
    app, _, stub = serve(transport=transport)
    for version in (1, 2, 3):
        if version > 1:
            put("double", version, offset=float(version))
            for _ in range(2):  # a file is complete when it is the same at two looks
                app.repository.scan()
        for _ in range(3):
            response = stub.Predict(request(X), timeout=30)
            assert response.model.version == version
            np.testing.assert_array_equal(tensors.decode(response.outputs[0]), X * 2 + (version if version > 1 else 0))


# Models.


@pytest.fixture
def models(put, start, connect):
    put("double", 1)
    put("double", 2)
    put("bad", text="{")
    app = start()
    return app, models_pb2_grpc.ModelServiceStub(connect(app))


def test_list_models_shows_every_version_by_name_newest_first(models):
    _, stub = models
    versions = stub.ListModels(models_pb2.ListModelsRequest(), timeout=30).versions
    assert [(one.name, one.version) for one in versions] == [("bad", 1), ("double", 2), ("double", 1)]
    bad, newest, old = versions
    assert (bad.state, bad.reason) == (models_pb2.VERSION_STATE_FAILED, "model.keras: the file is truncated")
    assert (newest.state, newest.served_by_default) == (models_pb2.VERSION_STATE_READY, True)
    assert (old.state, old.served_by_default) == (models_pb2.VERSION_STATE_AVAILABLE, False)
    assert [(spec.name, list(spec.shape)) for spec in newest.inputs] == [("x", [-1, 2])]
    assert (newest.file, newest.file_size_bytes, newest.keras_version) == ("model.keras", 2, "3.15.1")
    assert newest.HasField("ready_time")
    assert list(old.inputs) == []


def test_list_models_of_one_name(models):
    _, stub = models
    assert len(stub.ListModels(models_pb2.ListModelsRequest(name="double"), timeout=30).versions) == 2
    assert len(stub.ListModels(models_pb2.ListModelsRequest(name="nothing"), timeout=30).versions) == 0


def test_get_model_describes_also_what_is_not_loaded(models):
    _, stub = models

    def get(**choice):
        return stub.GetModel(models_pb2.GetModelRequest(model=tensor_pb2.ModelSpec(**choice)), timeout=30).version

    assert get(name="double").version == 2
    assert get(name="double", version=1).state == models_pb2.VERSION_STATE_AVAILABLE
    assert get(name="bad").state == models_pb2.VERSION_STATE_FAILED
    with pytest.raises(grpc.RpcError) as caught:
        get(name="nothing")
    assert caught.value.code() is NOT_FOUND


def test_download_sends_the_file_and_its_hash(models, put, tmp_path):
    _, stub = models
    content = random.Random(0).randbytes(2_500_000)
    (tmp_path / "models" / "double" / "2" / "model.keras").write_bytes(content)
    parts = list(
        stub.DownloadModel(models_pb2.DownloadModelRequest(model=tensor_pb2.ModelSpec(name="double")), timeout=30)
    )
    assert b"".join(part.data for part in parts) == content
    assert parts[0].version.version == 2
    assert not any(part.HasField("version") for part in parts[1:])
    assert [part.sha256 for part in parts] == [""] * (len(parts) - 1) + [hashlib.sha256(content).hexdigest()]


def test_download_of_a_file_that_is_gone_or_a_link_is_not_found(models, tmp_path):
    _, stub = models
    path = tmp_path / "models" / "double" / "2" / "model.keras"
    path.unlink()
    for replace in (lambda: None, lambda: path.symlink_to("/etc/hostname")):
        replace()
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.DownloadModel(models_pb2.DownloadModelRequest(model={"name": "double"}), timeout=30))
        assert caught.value.code() is NOT_FOUND


@pytest.mark.parametrize(
    ("name", "transport"), [("", "grpcio"), pytest.param("double", "native", marks=TRANSPORTS[1].marks)]
)
def test_statistics_count_the_predictions_of_models(serve, connect, wait_until, name, transport):
    app, _, stub = serve(transport=transport)
    for _ in range(3):
        stub.Predict(request(X), timeout=30)
    with pytest.raises(grpc.RpcError):
        stub.Predict(request(X, outputs=["nope"]), timeout=30)
    reports = models_pb2_grpc.ModelServiceStub(connect(app))

    def statistics():
        return reports.GetModelStatistics(models_pb2.GetModelStatisticsRequest(name=name), timeout=30)

    # A prediction is counted after its reply is sent.
    wait_until(lambda: sum(one.answered + one.failed for one in statistics().models) == 4)
    reply = statistics()
    (found,) = reply.models
    assert (found.name, found.answered, found.failed) == ("double", 3, 1)
    assert found.rows == 3 * len(X)
    assert 1 <= found.batches <= 3
    assert found.request_seconds > found.compute_seconds > 0
    assert sum(bucket.count for bucket in found.request_times) == 4
    bounds = [bucket.max_seconds for bucket in found.request_times]
    assert bounds == sorted(bounds)
    assert bounds[-1] == float("inf")
    assert reply.time.seconds > 0
    empty = reports.GetModelStatistics(models_pb2.GetModelStatisticsRequest(name="nope"), timeout=30)
    assert list(empty.models) == []


def test_statistics_count_what_waits_in_the_queue(serve, connect, wait_until):
    app, model, stub = serve()
    model.gate.clear()
    calls = [stub.Predict.future(request(X), timeout=30)]
    # Those that arrive together with it would be in its batch.
    wait_until(lambda: model.begun)
    calls += [stub.Predict.future(request(X), timeout=30) for _ in range(3)]
    reports = models_pb2_grpc.ModelServiceStub(connect(app))

    def waiting() -> int:
        (found,) = reports.GetModelStatistics(models_pb2.GetModelStatisticsRequest(), timeout=30).models
        return found.waiting_requests

    wait_until(waiting)
    model.gate.set()
    for one in calls:
        one.result()
    wait_until(lambda: not waiting())


def test_calls_are_counted_under_the_model_and_version_that_they_are_about(put, start, tmp_path, wait_until):
    put()
    app = start()
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        client.model("double")
        client.node_shapes("double")
        client.predict("double", X)
        client.download("double", tmp_path)
        run = client.train("double", X, X, optimizer="adam", loss="mse", publish=False)
        run.wait()
        client.run(run.id).wait()
        (app.runs.table.get(run.id).folder / "files").mkdir(exist_ok=True)
        (app.runs.table.get(run.id).folder / "files" / "log.txt").touch()
        run.download("log.txt", tmp_path)
        client.evaluate("double", X, X, loss="mse")
        (tmp_path / "new.keras").write_text("{}")
        client.upload("new", tmp_path / "new.keras")

    def counted():
        families = app.metrics.registry.collect()
        samples = [
            sample for family in families for sample in family.samples if sample.name == "layerserve_requests_total"
        ]
        return {(labels["method"], labels["model"], labels["version"]) for _, labels, *_ in samples if labels["model"]}

    methods = (
        "GetModel",
        "GetNodeShapes",
        "Predict",
        "DownloadModel",
        "Train",
        "WatchRun",
        "DownloadRunFile",
        "Evaluate",
    )
    expected = {("UploadModel", "new", "1"), *((method, "double", "1") for method in methods)}
    wait_until(lambda: counted() == expected)

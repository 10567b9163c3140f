"""Callers of a real server: their models, runs and quotas, and what becomes of them when the file of tokens changes."""

from __future__ import annotations

import queue
import threading
import urllib.error
import urllib.request
from hashlib import sha256
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from echo_servers import needs_native
from layerserve import Client
from layerserve.errors import REASON_KEY, Forbidden, QuotaExceeded, TokenExpired, Unauthenticated, from_status
from layerserve.v1 import (
    management_pb2,
    management_pb2_grpc,
    models_pb2,
    models_pb2_grpc,
    prediction_pb2,
    prediction_pb2_grpc,
    tensor_pb2,
    training_pb2,
    training_pb2_grpc,
)
from layerserve.values import tensors
from tokens import ENTRIES, bearer, write_tokens

TRANSPORTS = ["grpcio", pytest.param("native", marks=needs_native)]
X = np.ones((2, 2), np.float32)
ALL = 'rights = ["predict", "read", "train"]\n'


def refusal(call, *arguments, **options):
    """The client's error for a call that fails."""

    def ask():
        result = call(*arguments, timeout=30, **options)
        return list(result) if isinstance(result, grpc.RpcError) else result

    with pytest.raises(grpc.RpcError) as caught:
        ask()
    error = caught.value
    return from_status(error.code(), error.details(), error.trailing_metadata())


def request(model="double", rows=2):
    x = np.ones((rows, 2), np.float32)
    return prediction_pb2.PredictRequest(
        model=tensor_pb2.ModelSpec(name=model), inputs=[tensors.encode(x, "x")], outputs=["y"]
    )


@pytest.fixture
def guarded(put, start, connect, tmp_path):
    """Starts a server with tokens, and gives stubs of it."""

    def make(entries=ENTRIES, **options):
        file = write_tokens(tmp_path / "tokens.toml", entries)
        app = start(tokens=file, **options)
        channel = connect(app)
        return SimpleNamespace(
            app=app,
            channel=channel,
            file=file,
            refresh=app._inference.refresh_access,
            predict=prediction_pb2_grpc.PredictionServiceStub(channel).Predict,
            stream=prediction_pb2_grpc.PredictionServiceStub(channel).PredictStream,
            models=models_pb2_grpc.ModelServiceStub(channel),
            training=training_pb2_grpc.TrainingServiceStub(channel),
        )

    put("double")
    put("other-1")
    return make


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_template_of_one_caller_opens_nothing_to_another(guarded, transport):
    """Both send the same bytes, so that the second request isn't parsed."""
    server = guarded(transport=transport)
    for _ in range(3):
        reply = server.predict(request(), metadata=bearer("predict"), timeout=30)
        np.testing.assert_array_equal(tensors.decode(reply.outputs[0]), X * 2)
    for token, kind in (
        ("other-models", Forbidden),
        ("read", Forbidden),
        ("expired", TokenExpired),
        ("x", Unauthenticated),
    ):
        assert type(refusal(server.predict, request(), metadata=bearer(token))) is kind
    assert type(refusal(server.predict, request())) is Unauthenticated
    assert server.predict(request("other-1"), metadata=bearer("other-models"), timeout=30).model.name == "other-1"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_callers_that_come_together_are_told_apart(guarded, transport):
    server = guarded(transport=transport)
    tokens = ["predict", "other-models", "all", "read"] * 20
    calls = [server.predict.future(request(), metadata=bearer(token), timeout=30) for token in tokens]
    for token, call in zip(tokens, calls, strict=True):
        code = grpc.StatusCode.OK if token in ("predict", "all") else grpc.StatusCode.PERMISSION_DENIED
        assert call.code() is code


def test_each_request_of_a_stream_is_one_for_a_model(guarded):
    server = guarded()
    requests = [
        prediction_pb2.PredictStreamRequest(request=request(model)) for model in ("double", "other-1", "absent")
    ]
    replies = list(server.stream(iter(requests), metadata=bearer("other-models"), timeout=30))
    errors = sorted(reply.error.code for reply in replies if reply.HasField("error"))
    assert errors == [grpc.StatusCode.PERMISSION_DENIED.value[0]] * 2
    refused = {reply.error.metadata[REASON_KEY] for reply in replies if reply.HasField("error")}
    assert refused == {"forbidden"}
    assert [reply.response.model.name for reply in replies if reply.HasField("response")] == ["other-1"]


def test_lists_leave_out_what_the_caller_may_not_read(guarded):
    server = guarded()

    def listed(token, name=""):
        reply = server.models.ListModels(models_pb2.ListModelsRequest(name=name), metadata=bearer(token), timeout=30)
        return [version.name for version in reply.versions]

    assert listed("read") == ["double", "other-1"]
    assert listed("other-models") == ["other-1"]
    # The same for one that isn't there.
    assert listed("other-models", "double") == listed("other-models", "absent") == []


def test_the_python_client_predicts_with_the_right_to_predict(guarded):
    with Client(f"localhost:{guarded().app.grpc_port}", token="predict") as client:
        assert client.predict("double", [[1.0, 2.0]]).tolist() == [[2.0, 4.0]]
        with pytest.raises(Forbidden, match="caller 'predict' has no right 'read'"):
            client.models()


def test_statistics_leave_out_what_the_caller_may_not_read(guarded):
    server = guarded()

    def counted(token, name=""):
        request = models_pb2.GetModelStatisticsRequest(name=name)
        return [
            one.name for one in server.models.GetModelStatistics(request, metadata=bearer(token), timeout=30).models
        ]

    assert counted("read") == ["double", "other-1"]
    assert counted("other-models") == ["other-1"]
    assert counted("other-models", "double") == counted("other-models", "absent") == []


def test_runs_belong_to_their_model(guarded):
    server = guarded({**ENTRIES, "twice": 'rights = ["train", "read"]'})
    run = trained(server, "twice")
    for token, visible in (("twice", True), ("read", True), ("other-models", False)):
        listed = server.training.ListRuns(training_pb2.ListRunsRequest(), metadata=bearer(token), timeout=30).runs
        assert [one.id for one in listed] == ([run] if visible else [])
    calls = {
        "read": [
            (server.training.GetRun, training_pb2.GetRunRequest),
            (server.training.ListRunFiles, training_pb2.ListRunFilesRequest),
            (server.training.WatchRun, training_pb2.WatchRunRequest),
            (server.training.DownloadRunFile, training_pb2.DownloadRunFileRequest),
        ],
        "train": [
            (server.training.CancelRun, training_pb2.CancelRunRequest),
            (server.training.ResumeRun, training_pb2.ResumeRunRequest),
            (server.training.DeleteRun, training_pb2.DeleteRunRequest),
        ],
    }
    absent = "20260101-0000-00000000"
    for right, methods in calls.items():
        for call, kind in methods:
            # Without a right on the model, the run is one that does not exist.
            found = refusal(call, kind(run_id=run), metadata=bearer("other-models"))
            unknown = refusal(call, kind(run_id=absent), metadata=bearer("other-models"))
            assert (
                (found.status, found.code)
                == (unknown.status, unknown.code)
                == (grpc.StatusCode.NOT_FOUND, "run_not_found")
            )
            assert found.details.replace(run, absent) == unknown.details
            if call is not server.training.GetRun:
                wrong = "train" if right == "read" else "read"
                assert type(refusal(call, kind(run_id=run), metadata=bearer(wrong))) is Forbidden
    got = server.training.GetRun(training_pb2.GetRunRequest(run_id=run), metadata=bearer("read"), timeout=30)
    assert got.run.id == run
    server.training.DeleteRun(training_pb2.DeleteRunRequest(run_id=run), metadata=bearer("twice"), timeout=30)


def messages(description="train"):
    data = [
        training_pb2.DataArray(role=role, dtype=tensors.dtype_enum("float32"), shape=[2, 2])
        for role in (training_pb2.DATA_ROLE_X, training_pb2.DATA_ROLE_Y)
    ]
    spec = training_pb2.TrainSpec(
        model=tensor_pb2.ModelSpec(name="double"),
        data=data,
        description=description,
        compile=training_pb2.CompileSettings(optimizer='"sgd"', loss='"mse"'),
    )
    yield training_pb2.TrainRequest(spec=spec)
    for array in (0, 1):
        yield training_pb2.TrainRequest(chunk=training_pb2.DataChunk(array=array, data=X.tobytes()))


def trained(server, token):
    """Trains to the end; the run's id."""
    events = [reply.event for reply in server.training.Train(messages(), metadata=bearer(token), timeout=60)]
    assert events[-1].HasField("finished")
    return events[0].run_id


def test_a_quota_of_runs_counts_those_that_are_open(guarded):
    server = guarded({"ci": ALL + "max_runs = 1"}, cancel_grace_seconds=0.1)
    for _ in range(2):
        call = server.training.Train(messages("wait"), metadata=bearer("ci"), timeout=60)
        run = next(reply.event.run_id for reply in call if reply.event.HasField("step"))
        error = refusal(lambda **options: server.training.Train(messages(), **options), metadata=bearer("ci"))
        assert type(error) is QuotaExceeded
        assert error.retry_after == 10.0
        server.training.CancelRun(training_pb2.CancelRunRequest(run_id=run), metadata=bearer("ci"), timeout=30)
        assert [reply.event.WhichOneof("kind") for reply in call][-1] == "cancelled"


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_quota_of_rows_holds_for_all_calls_and_streams_of_a_name(guarded, transport):
    limited = 'rights = ["predict"]\nrows_per_minute = 10\n'
    server = guarded({"first": limited, "other": 'rights = ["predict"]'}, transport=transport)
    for _ in range(3):
        server.predict(request(rows=4), metadata=bearer("first"), timeout=30)
    error = refusal(server.predict, request(rows=4), metadata=bearer("first"))
    assert type(error) is QuotaExceeded
    assert 0 < error.retry_after <= 20
    streamed = iter([prediction_pb2.PredictStreamRequest(request=request(rows=1))])
    (reply,) = server.stream(streamed, metadata=bearer("first"), timeout=30)
    assert reply.error.metadata[REASON_KEY] == "quota_exceeded"
    server.predict(request(rows=4), metadata=bearer("other"), timeout=30)
    # Reading the file again gives no new rows.
    write_tokens(server.file, {"first": limited})
    server.refresh()
    assert type(refusal(server.predict, request(rows=4), metadata=bearer("first"))) is QuotaExceeded


@pytest.fixture
def silence():
    """Messages of a client that sends none."""
    end = threading.Event()
    yield lambda: iter(lambda: end.wait(30), True)
    end.set()


@pytest.mark.parametrize("transport_name", TRANSPORTS)
def test_streams_end_when_their_token_is_withdrawn(guarded, transport_name, silence, wait_until):
    server = guarded(transport=transport_name, stalled_seconds=0.4)
    started = server.training.Train(messages("wait"), metadata=bearer("all"), timeout=60)
    run = training_pb2.WatchRunRequest(run_id=next(started).event.run_id)
    calls = {
        "waits for the client": server.stream(silence(), metadata=bearer("predict"), timeout=30),
        "waits for events": server.training.WatchRun(run, metadata=bearer("read"), timeout=30),
    }
    next(calls["waits for events"])
    other = server.stream(silence(), metadata=bearer("all"), timeout=30)
    transport = server.app._transport
    streams = (transport if transport_name == "grpcio" else transport._behind)._streams
    wait_until(lambda: streams.count == 4)
    write_tokens(server.file, {name: lines for name, lines in ENTRIES.items() if name not in ("predict", "read")})
    server.refresh()
    for what, call in calls.items():
        error = refusal(lambda call=call, **_: list(call))
        assert type(error) is Unauthenticated, what
        assert "was withdrawn" in error.details, what
    assert other.is_active()
    assert started.is_active()
    other.cancel()
    started.cancel()
    assert type(refusal(server.predict, request(), metadata=bearer("predict"))) is Unauthenticated


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_streams_end_when_their_model_names_other_callers(guarded, transport, silence, tmp_path):
    server = guarded(transport=transport, stalled_seconds=0.4)
    started = server.training.Train(messages("wait"), metadata=bearer("all"), timeout=60)
    run = training_pb2.WatchRunRequest(run_id=next(started).event.run_id)
    watched = server.training.WatchRun(run, metadata=bearer("read"), timeout=30)
    next(watched)
    waiting = queue.SimpleQueue()
    predictions = server.stream(iter(waiting.get, None), metadata=bearer("predict"), timeout=30)
    waiting.put(prediction_pb2.PredictStreamRequest(request=request()))
    assert next(predictions).HasField("response")
    (tmp_path / "models" / "double" / "layerserve.toml").write_text('callers = ["all"]')
    server.app.repository.scan()
    error = refusal(lambda **_: list(watched))
    assert type(error) is Forbidden
    assert error.details == "model 'double': isn't open to caller 'read' any more"
    assert started.is_active()
    # Of predictions each request is refused by itself, since others may be for other models.
    for name, field in (("double", "error"), ("other-1", "response")):
        waiting.put(prediction_pb2.PredictStreamRequest(request=request(name)))
        assert next(predictions).HasField(field)
    waiting.put(None)
    started.cancel()


def test_an_upload_is_not_published_when_its_model_names_other_callers_meanwhile(guarded, tmp_path):
    server = guarded()
    content = (tmp_path / "models" / "double" / "1" / "model.keras").read_bytes()
    file = management_pb2.UploadFile(path="model.keras", bytes=len(content), sha256=sha256(content).hexdigest())
    spec = management_pb2.UploadSpec(name="double", files=[file])
    waiting = queue.SimpleQueue()
    waiting.put(management_pb2.UploadModelRequest(spec=spec))
    upload = management_pb2_grpc.ManagementServiceStub(server.channel).UploadModel
    replies = upload(iter(waiting.get, None), metadata=bearer("manage"), timeout=30)
    assert next(replies).HasField("accepted")
    (tmp_path / "models" / "double" / "layerserve.toml").write_text('callers = ["all"]')
    server.app.repository.scan()
    waiting.put(management_pb2.UploadModelRequest(chunk=management_pb2.UploadChunk(file=0, data=content)))
    waiting.put(None)
    assert type(refusal(lambda **_: list(replies))) is Forbidden
    assert not (tmp_path / "models" / "double" / "2").exists()


def test_the_metrics_need_a_right_and_the_probes_do_not(guarded):
    app = guarded(metrics_port=0).app

    def get(path, token=None):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        page = urllib.request.Request(f"http://127.0.0.1:{app.metrics_port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(page, timeout=30) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    for path in ("/healthz", "/readyz"):
        assert [get(path, token)[0] for token in (None, "wrong", "all")] == [200] * 3
    statuses = {token: get("/metrics", token)[0] for token in (None, "wrong", *ENTRIES)}
    assert statuses == {
        **dict.fromkeys([None, "wrong", "expired"], 401),
        **dict.fromkeys(["predict", "train", "manage"], 403),
        **dict.fromkeys(["read", "all", "other-models"], 200),
    }
    assert get("/metrics", "predict")[1] == "/metrics: caller 'predict' has no right 'read'\n"

"""The access log: a line for each call, off by default; what finds no room is counted."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time

import grpc
import numpy as np
import pytest
from layerserve.v1 import management_pb2, management_pb2_grpc, prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors
from layerserve_server.observability import access_log, background
from layerserve_server.observability.access_log import AccessLog
from layerserve_server.observability.background import Background
from layerserve_server.observability.logs import JsonFormatter, TextFormatter


def request(model="double"):
    x = np.ones((1, 2), np.float32)
    return prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name=model), inputs=[tensors.encode(x, "x")])


def lines(caplog):
    return [record for record in caplog.records if record.name == "layerserve_server.access"]


def test_each_call_and_stream_has_a_line(put, start, connect, caplog, wait_until):
    put("double")
    app = start(access_log=1.0, log_level="warning")
    stub = prediction_pb2_grpc.PredictionServiceStub(connect(app))
    began = time.time()
    stub.Predict(request(), timeout=30, metadata=[("x-request-id", "mine")])
    # A line is written after the reply is sent.
    wait_until(lambda: len(lines(caplog)) == 1)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Predict(request("nothing"), timeout=30)
    wait_until(lambda: len(lines(caplog)) == 2)
    given = dict(caught.value.trailing_metadata())["x-request-id"]
    list(stub.PredictStream(iter([prediction_pb2.PredictStreamRequest(request=request())]), timeout=30))
    connect(app).unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=30)
    wait_until(lambda: len(lines(caplog)) == 3)
    app._inference.telemetry.close()
    found = [json.loads(JsonFormatter().format(record)) for record in lines(caplog)]
    for line, record in zip(found, lines(caplog), strict=True):
        assert 0 < line.pop("seconds") < 30
        assert began - 1 < record.created < time.time() + 1
        assert line.pop("time").endswith("Z")
        common = ("level", "logger", "message", "client")
        assert [line.pop(name) for name in common] == ["info", "layerserve_server.access", "call", "127.0.0.1"]
    service, model = "/layerserve.v1.PredictionService/", {"model": "double", "version": "1"}
    assert found == [
        {"method": f"{service}Predict", **model, "status": "OK", "request_id": "mine"},
        {"method": f"{service}Predict", "status": "NOT_FOUND", "request_id": given},
        {"method": f"{service}PredictStream", **model, "status": "OK"},
    ]
    text = TextFormatter().format(lines(caplog)[0])
    assert "info    call method=/layerserve.v1.PredictionService/Predict model=double version=1 status=OK " in text


def test_the_line_of_an_upload_names_the_new_version(put, start, connect, caplog):
    put("double")
    app = start(access_log=1.0)
    content = b'{"offset": 7}'
    declared = management_pb2.UploadFile(
        path="model.keras", bytes=len(content), sha256=hashlib.sha256(content).hexdigest()
    )
    parts = [
        management_pb2.UploadModelRequest(spec=management_pb2.UploadSpec(name="double", files=[declared])),
        management_pb2.UploadModelRequest(chunk=management_pb2.UploadChunk(data=content)),
    ]
    list(management_pb2_grpc.ManagementServiceStub(connect(app)).UploadModel(iter(parts), timeout=30))
    app._inference.telemetry.close()
    (record,) = lines(caplog)
    found = json.loads(JsonFormatter().format(record))
    assert (found["model"], found["version"], found["status"]) == ("double", "2", "OK")


def test_by_default_there_is_none(put, start, connect, caplog):
    put("double")
    app = start()
    assert app._inference.telemetry is None
    prediction_pb2_grpc.PredictionServiceStub(connect(app)).Predict(request(), timeout=30)
    assert lines(caplog) == []


class Call:
    """A call that has ended."""

    method, model, version, metadata, trace, request_id = "/a.B/C", "m", "1", (), None, ""

    def client(self):
        return "ipv4:10.0.0.7:5"


def test_a_share_of_the_calls(monkeypatch, caplog):
    numbers = iter([0.1, 0.24, 0.25, 0.9])
    monkeypatch.setattr(access_log.random, "random", lambda: next(numbers))
    log = AccessLog(0.25, lambda count: None)
    for _ in range(4):
        log.ended(Call(), "OK", 0.5)
    log.close()
    assert [record.client for record in lines(caplog)] == ["10.0.0.7"] * 2


def test_what_finds_no_room_is_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(background, "INTERVAL_SECONDS", 3600)
    handled, dropped = [], []
    work = Background("test", handled.extend, 3, dropped.append)
    assert [work.add(number) for number in range(5)] == [True] * 3 + [False] * 2
    work.flush()
    assert (handled, dropped) == ([0, 1, 2], [2])
    assert work.add(5)
    work._stopping.set()
    monkeypatch.undo()


def test_items_are_handled_by_one_thread_at_a_time(monkeypatch):
    monkeypatch.setattr(background, "INTERVAL_SECONDS", 3600)
    handled, together = [], []

    def handle(items):
        handled.extend(items)
        if items == ["first"]:
            work.add("second")
            second.start()
            second.join(0.1)
            together.extend(handled[1:])

    work = Background("test", handle, 3, lambda count: None)
    second = threading.Thread(target=work.flush)
    work.add("first")
    work.flush()
    second.join()
    assert (handled, together) == (["first", "second"], [])
    work._stopping.set()


def test_work_that_fails_does_not_end_the_thread(caplog):
    handled = threading.Event()

    def handle(items):
        if items == ["bad"]:
            raise ValueError("no")
        handled.set()

    work = Background("test", handle, 3, lambda count: None)
    work.add("bad")
    work.flush()
    work.add("good")
    assert handled.wait(30)
    work.close()
    assert [record.levelno for record in caplog.records] == [logging.ERROR]

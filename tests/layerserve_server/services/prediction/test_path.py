"""The files that a Predict goes through: ARCHITECTURE.md lists those that a request is seen to go through."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import socket
import threading
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

import layerserve_server
import numpy as np
import pytest
from layerserve.v1 import prediction_pb2, prediction_pb2_grpc, tensor_pb2
from layerserve.values import tensors

SERVER = Path(layerserve_server.__file__).parent
PAGE = SERVER.parents[1] / "ARCHITECTURE.md"
HEADLINE = "## The path of a Predict request, from bytes to bytes"
#: They look at each request, and can be taken away.
OBSERVERS = "/extensions/"
#: Files of layerserve_server that a newcomer has to read at most.
MOST_FILES = 12

TRANSPORTS = [
    "grpcio",
    pytest.param(
        "native",
        marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="pygrpc-native isn't installed"),
    ),
]


def listed() -> dict[str, list[str]]:
    """The files that ARCHITECTURE.md lists, in order, by the word that stands before the first of each list."""
    found: dict[str, list[str]] = {}
    word = ""
    for line in PAGE.read_text().split(HEADLINE)[1].split("```")[1].splitlines():
        if entry := re.match(r"(\w*) +([\w/]+\.py)  ", line):
            word = entry[1] or word
            found.setdefault(word, []).append(entry[2])
    return found


def of_observer(frame: FrameType | None) -> bool:
    """Whether an observer has called this function."""
    return frame is not None and (OBSERVERS in frame.f_code.co_filename or of_observer(frame.f_back))


class Trace:
    """Notes the files of the server whose functions threads call, in the order of their first call."""

    def __init__(self) -> None:
        self._first = ""
        self._files: dict[int, dict[str, None]] = {}

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if self._first and event == "call" and (path := frame.f_code.co_filename).startswith(str(SERVER)):
            file, thread = Path(path).relative_to(SERVER).as_posix(), threading.get_ident()
            if of_observer(frame):
                return
            # What is left to do of an earlier request comes before.
            if thread in self._files or file == self._first:
                self._files.setdefault(thread, {})[file] = None

    def start(self, first: str) -> None:
        """Begins in each thread with its first call of a function of the file `first`."""
        self._files.clear()
        self._first = first

    def stop(self) -> list[str]:
        """The files of the thread in which the prediction service ran."""
        self._first = ""
        (found,) = [list(files) for files in self._files.values() if "services/prediction/predictor.py" in files]
        return found


@pytest.fixture
def trace(monkeypatch):
    """Sees what is called in all threads that start from now on."""
    # `given_back` has short messages counted, too.
    monkeypatch.setattr("layerserve_server.transport.event_batch.COUNTED_BYTES", 4096)
    # On a busy machine the look at clients that don't read would come between a reply and its end.
    monkeypatch.setattr("layerserve_server.transport.completion_queue.Poller._end_stalled", lambda *_: None)
    traced, before = Trace(), threading.getprofile()
    threading.setprofile(traced)
    yield traced
    threading.setprofile(before)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_request_goes_through_the_files_that_are_listed_and_no_others(
    transport, put, start, connect, trace, wait_until, monkeypatch
):
    put("double")
    app = start(transport=transport, tuning_seconds=0)
    predict = prediction_pb2_grpc.PredictionServiceStub(connect(app)).Predict
    x = np.ones((1, 2), np.float32)
    request = prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="double"), inputs=[tensors.encode(x, "x")])
    lists = listed()
    way = lists[transport] + lists["both"]
    assert len(way) == len(set(way)) <= MOST_FILES

    counted, count = [], app.metrics.calls_ended
    monkeypatch.setattr(app.metrics, "calls_ended", lambda calls: (count(calls), counted.extend(calls)))

    def traced():
        trace.start(way[0])
        before = len(counted)
        reply = predict(request, timeout=60)
        np.testing.assert_array_equal(tensors.decode(reply.outputs[0]), x * 2)
        wait_until(lambda: len(counted) > before)
        return trace.stop()

    with app.repository.leases.lease("double") as version:
        # As after some requests: the model is known to be quick.
        version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
    first = traced()
    traced()
    assert traced() == way + lists["counted"]
    # A request like none before goes through these besides.
    others = [file for file in first if file not in way + lists["counted"]]
    assert others == lists["first"]
    assert set(lists) == {"grpcio", "native", "http", "both", "tokens", "counted", "first"}


def test_a_request_of_http_goes_through_the_files_that_are_listed(put, start, trace, wait_until, monkeypatch):
    put("double")
    app = start(http_port=0, tuning_seconds=0)
    x = np.ones((1, 2), np.float32)
    tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    lists = listed()
    counted, count = [], app.metrics.calls_ended
    monkeypatch.setattr(app.metrics, "calls_ended", lambda calls: (count(calls), counted.extend(calls)))
    with app.repository.leases.lease("double") as version:
        version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
    head = (
        "POST /v2/models/double/infer HTTP/1.1\r\nHost: localhost\r\n"
        f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + 8}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", app.http_port), timeout=60) as connection:
        for _ in range(3):
            trace.start(lists["http"][0])
            before = len(counted)
            # At once: a head that comes without its body is parsed.
            connection.sendall(head.encode() + text + x.tobytes())
            reply = http.client.HTTPResponse(connection)
            reply.begin()
            assert reply.read().endswith((2 * x).tobytes())
            wait_until(lambda before=before: len(counted) > before)
            files = trace.stop()
    other = lists["both"] + lists["counted"]
    assert [file for file in files if file not in other] == lists["http"]
    assert [file for file in other if file not in files] == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_with_tokens_it_goes_through_the_files_that_are_listed_besides(
    transport, put, start, connect, trace, wait_until, monkeypatch, tmp_path
):
    put("double")
    file = tmp_path / "tokens.toml"
    digest = hashlib.sha256(b"secret").hexdigest()
    file.write_text(f'tokens = [{{name = "a", sha256 = "{digest}", rights = ["predict"]}}]')
    app = start(transport=transport, tuning_seconds=0, tokens=file)
    predict = prediction_pb2_grpc.PredictionServiceStub(connect(app)).Predict
    x = np.ones((1, 2), np.float32)
    request = prediction_pb2.PredictRequest(model=tensor_pb2.ModelSpec(name="double"), inputs=[tensors.encode(x, "x")])
    lists = listed()
    counted, count = [], app.metrics.calls_ended
    monkeypatch.setattr(app.metrics, "calls_ended", lambda calls: (count(calls), counted.extend(calls)))
    with app.repository.leases.lease("double") as version:
        version.queue._thread_seconds = [0.0] * len(version.queue._thread_seconds)
    for _ in range(3):
        trace.start(lists[transport][0])
        before = len(counted)
        predict(request, timeout=60, metadata=[("authorization", "Bearer secret")])
        wait_until(lambda before=before: len(counted) > before)
        files = trace.stop()
    way = lists[transport] + lists["both"] + lists["counted"]
    assert [file for file in files if file not in lists["tokens"]] == way
    assert [file for file in files if file not in way] == lists["tokens"]

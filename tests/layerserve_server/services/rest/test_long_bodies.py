"""Bodies that are long enough for another process: the same replies and errors, and limits of memory and time."""

from __future__ import annotations

import json
import os
import signal
import socket
from dataclasses import replace

import numpy as np
import pytest
from layerserve_server.errors import TooLargeError
from layerserve_server.extensions.installed import Settings
from layerserve_server.jobs.channel import Channel
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.services.rest import body_reader
from layerserve_server.services.rest.json_text import array_pieces, dumps_array, loads
from layerserve_server.transport.chunking import CHUNK_ELEMENTS
from layerserve_server.wiring import limits

INFER = "/v2/models/double/infer"
ROWS = 40_000
X = np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2) / 8


@pytest.fixture
def long(serve):
    """A server that has no more rows in a batch than a request here has."""
    app, call = serve(max_batch_rows=ROWS)
    assert len(json.dumps(X.tolist())) > body_reader.LONG_JSON_BYTES
    return app, call


def reading(channel):
    return body_reader.Reading(Channel(channel), replace(limits(Settings()), max_message_bytes=10))


@pytest.mark.parametrize(
    "parts",
    [
        (b'{"message": 10}\n0123456789',),
        (b'{"message": 10}\n0123', b"456789"),
        (b'{"mess', b'age": 10}\n', b"0123456789"),
    ],
)
def test_a_message_may_come_with_its_line_or_after_it(parts):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for part in parts:
            theirs.send(part)
        assert reading(ours).message() == b"0123456789"


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b'{"message": 10}\n012345678', ConnectionError), (b'{"message": 11}\n', TooLargeError), (b"{", ConnectionError)],
)
def test_a_message_that_is_cut_or_too_large_is_an_error(sent, error):
    ours, theirs = socket.socketpair()
    with ours:
        theirs.send(sent)
        theirs.close()
        with pytest.raises(error):
            reading(ours).message()


def tensor(**fields):
    return {"name": "x", "shape": [ROWS, 2], "datatype": "FP32", **fields}


def test_long_bodies_get_the_replies_of_short_ones(long, wait_until):
    app, call = long
    rows = X.tolist()
    reply = call("POST", INFER, {"inputs": [tensor(data=rows)], "id": "7"}).json
    assert (reply["id"], reply["outputs"][0]["data"]) == ("7", (2 * X).ravel().tolist())
    # JSON and binary in one body.
    wanted = {"binary_data_output": True}
    text = json.dumps({"inputs": [tensor(data=rows)], "parameters": wanted}).encode()
    reply = call("POST", INFER, text, Inference_Header_Content_Length=str(len(text)))
    length = int(reply.headers["inference-header-content-length"])
    np.testing.assert_array_equal(np.frombuffer(reply.body[length:], np.float32).reshape(X.shape), 2 * X)
    wait_until(lambda: app._transport.memory.held == 0)


WRONG = [
    (b" " * 300_000, "isn't JSON"),
    (b"[" * 300_000, "isn't JSON"),
    ({"inputs": [tensor(data=X[1:].tolist())]}, f"expected {2 * ROWS} for shape"),
    ({"inputs": [tensor(data=X.tolist(), name="\ud800")]}, "surrogate"),
]


#: Takes more memory and time than others of its size.
MANY_OBJECTS = b'{"inputs":[' + b'{"a":1},' * 1_000_000 + b"{}]}"


def test_long_bodies_get_the_errors_of_short_ones(long, wait_until):
    app, call = long
    for body, text in WRONG:
        reply = call("POST", INFER, body)
        assert (reply.status, text in reply.json["error"]) == (400, True), reply.json
    wait_until(lambda: app._transport.memory.held == 0)


def test_a_body_that_takes_too_much_memory_is_refused(long, monkeypatch, wait_until):
    app, call = long
    monkeypatch.setattr(body_reader, "JSON_MEMORY_BYTES", 1 << 20)
    monkeypatch.setattr(body_reader, "JSON_MEMORY_FACTOR", 2)
    reply = call("POST", INFER, MANY_OBJECTS)
    assert reply.status == 400
    assert "too much memory to read; send the tensors in binary" in reply.json["error"]
    wait_until(lambda: app._transport.memory.held == 0)


def test_a_body_that_takes_too_long_is_refused(long, monkeypatch):
    _, call = long
    monkeypatch.setattr(body_reader, "JSON_SECONDS", 0.0)
    monkeypatch.setattr(body_reader, "JSON_BYTES_PER_SECOND", 1e9)
    monkeypatch.setattr(Jobs, "connection", lengthened(Jobs.connection))
    reply = call("POST", INFER, MANY_OBJECTS)
    assert reply.status == 400
    assert "takes too long to read" in reply.json["error"]


def lengthened(connection):
    """Connections whose replies may take longer than the child may."""
    return lambda self, job, given, limits, seconds: connection(self, job, given, limits, seconds + 30)


def test_a_process_that_was_killed_is_started_again(long):
    app, call = long
    assert call("POST", INFER, {"inputs": [tensor(data=X.tolist())]}).status == 200
    server = app._jobs._cold
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    assert call("POST", INFER, {"inputs": [tensor(data=X.tolist())]}).status == 200
    # It imports no torch, which would take longer to start, and more memory.
    with open(f"/proc/{server._process.pid}/maps") as maps:
        assert "libtorch" not in maps.read()


@pytest.mark.parametrize(
    "shape", [(3 * CHUNK_ELEMENTS,), (1, 1, 2 * CHUNK_ELEMENTS + 5), (CHUNK_ELEMENTS, 3), (3, CHUNK_ELEMENTS, 2)]
)
def test_large_arrays_are_written_in_pieces(shape):
    array = np.random.default_rng(0).random(shape, np.float32)
    array.flat[7] = np.nan
    np.testing.assert_array_equal(np.array(loads(dumps_array(array)), np.float32), array)


def test_no_piece_is_long():
    for shape in ((1, 1, 10 * CHUNK_ELEMENTS), (3, CHUNK_ELEMENTS, 2), (20 * CHUNK_ELEMENTS,)):
        assert max(map(len, array_pieces(np.ones(shape, np.float32)))) < 5 * CHUNK_ELEMENTS


def test_texts_are_written_in_pieces_too():
    texts = np.array(["a", "\u00e4"] * CHUNK_ELEMENTS, dtype=object).reshape(2, -1)
    assert loads(dumps_array(texts)) == texts.tolist()
    assert len(list(array_pieces(texts))) > 2

"""Requests whose head came before: they aren't parsed again, and nothing else differs."""

from __future__ import annotations

import gzip
import json
import random
import re
import socket
from itertools import pairwise

import numpy as np
import pytest
from http_calls import Http, exchange
from layerserve import Client
from layerserve_server.transport.http import connection as http_connection
from tokens import write_tokens

INFER = "/v2/models/double/infer"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
#: What each reply has of its own: the date, and the id of one that fails.
DATE = re.compile(rb"(date|x-request-id): [^\r]*\r\n")


def post(*headers: bytes, body: bytes = BODY, version: bytes = b"1.1") -> bytes:
    """A request as bytes."""
    line = b"POST " + INFER.encode() + b" HTTP/" + version
    return b"\r\n".join([line, b"host: a", b"content-length: %d" % len(body), *headers, b"", body])


def in_binary(x, **fields) -> tuple[bytes, dict[str, str]]:
    """A request with a tensor in binary, both ways: its body, and its header."""
    tensor = {"name": "x", "shape": list(x.shape), "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}
    text = json.dumps({**fields, "inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + x.tobytes(), {"Inference_Header_Content_Length": str(len(text))}


class Sender:
    """A connection that sends bytes, and takes one reply after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._file = self._socket.makefile("rb")

    def __call__(self, sent: bytes) -> tuple[bytes, bytes]:
        """The head and the body of the reply."""
        self.send(sent)
        return self.reply()

    def send(self, sent: bytes) -> None:
        """Sends without waiting for a reply."""
        self._socket.sendall(sent)

    def reply(self) -> tuple[bytes, bytes]:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._file.readline() or pytest.fail("the connection has ended")
        size = re.search(rb"content-length: (\d+)", head)
        return re.sub(rb"date: [^\r]*\r\n", b"", head), self._file.read(int(size[1])) if size else b""

    def close(self) -> None:
        self._file.close()
        self._socket.close()


@pytest.fixture
def serve(put, start):
    opened = []

    def serve_double(**settings):
        put("double")
        app = start(http_port=0, **settings)
        opened.append(Sender(app.http_port))
        return app, opened[-1]

    yield serve_double
    for one in opened:
        one.close()


@pytest.fixture
def parsed(monkeypatch):
    """The paths of the heads that were parsed."""
    heads = []
    made = http_connection.HttpHead

    def note(*arguments, **options):
        heads.append(made(*arguments, **options))
        return heads[-1]

    monkeypatch.setattr(http_connection, "HttpHead", note)
    return heads


def test_a_head_is_parsed_once(serve, parsed, wait_until):
    app, call = serve()
    replies = {call(post()) for _ in range(5)}
    other = Sender(app.http_port)
    replies.add(other(post()))
    other.close()
    assert len(parsed) == len(replies) == 1
    labels = {"method": "http:ModelInfer", "model": "double", "version": "1", "status": "OK"}
    wait_until(lambda: app.metrics.registry.get_sample_value("layerserve_requests_total", labels) == 6)


@pytest.mark.parametrize("sizes", [(0,), (0, 3), (5,), (5, 9)])
def test_a_head_is_known_wherever_its_body_is_cut(serve, parsed, sizes, wait_until):
    """Python's clients send the body in a packet of its own."""
    app, call = serve()
    start = len(post()) - len(BODY)
    open_now = app._http._connections._open
    replies = set()
    for _ in range(3):
        for begin, end in pairwise((-start, *sizes)):
            call.send(post()[start + begin : start + end])
            wait_until(lambda end=end: [one.size for each in list(open_now) for one in each._received] == [end])
        replies.add(call(post()[start + sizes[-1] :]))
    assert len(replies) == len(parsed) == 1


def test_what_follows_a_known_request_is_another_one(serve, parsed):
    app, call = serve()
    assert call(post())[0].startswith(b"HTTP/1.1 200")
    last = b"GET /nothing HTTP/1.1\r\nconnection: close\r\n\r\n"
    for parts in ((post() + post() + last,), (post()[:-3], post()[-3:] + post() + last)):
        got = exchange(app.http_port, *parts)
        assert re.findall(rb"HTTP/1.1 (\d+)", got) == [b"200", b"200", b"404"]


@pytest.mark.parametrize("cut", [None, -5])
@pytest.mark.parametrize("ahead", [b"", b"\r\n", b"\r\n\r\n"])
@pytest.mark.parametrize("change", [(b"\r\n", b"\n"), (b"host: a\r\n", b"host: a\n"), (b"", b"")])
def test_only_bytes_that_are_a_head_become_one(serve, ahead, change, cut):
    """Lines that end otherwise, and empty ones before a request: whatever the parser makes of them, it does again."""
    app, _ = serve()
    sent = ahead + post().replace(*change, -1 if change[0] else 0)
    got = []
    for _ in range(3):
        parts = [part for part in (sent[:cut], sent[cut:] if cut else b"") if part]
        got.append(DATE.sub(b"", exchange(app.http_port, *parts, b"GET /v2 HTTP/1.1\r\nconnection: close\r\n\r\n")))
    assert got[0] == got[1] == got[2]
    for content, head in app._http._connections.heads._known.items():
        assert content.strip(b"\r\n").startswith((b"POST ", b"GET "))
        assert content.endswith(b"\r\n\r\n")
        assert content.count(b"\r\n\r\n") == 1
        assert head.length >= 0


def test_heads_that_are_kept_have_a_limit(serve, monkeypatch):
    monkeypatch.setattr("layerserve_server.transport.http.head.MAX_HEADS", 8)
    app, call = serve()
    known = app._http._connections.heads._known
    for number in range(30):
        call(post(b"x-number: %d" % number))
        assert len(known) <= 8
    call(post(b"x-long: " + b"a" * 2048))
    assert max(map(len, known)) <= 2048


def test_a_head_of_another_byte_is_another_head(serve, parsed):
    _, call = serve()
    for header in (b"x-request-id: a", b"x-request-id: b", b"x-request-id: a", b"X-Request-Id: a"):
        head, _ = call(post(header))
        assert b"x-request-id: " + header[-1:] + b"\r\n" in head
    assert len(parsed) == 3


def test_numbers_are_those_of_grpc_bit_for_bit(serve):
    app, _ = serve()
    call = Http(app.http_port)
    draw = np.random.default_rng(0)
    with Client(f"127.0.0.1:{app.grpc_port}") as client:
        for rows in (1, 1, 1, 3, 3):
            # The model refuses negative numbers.
            x = (draw.integers(0, 2**32, (rows, 2), np.uint32) & 0x3FFFFFFF).astype(np.uint32).view(np.float32)
            x[-1, 1] = np.nan
            body, headers = in_binary(x)
            reply = call("POST", INFER, body, **headers)
            got = reply.body[int(reply.headers["inference-header-content-length"]) :]
            assert got == client.predict("double", x).tobytes()
            in_json = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "data": x.tolist()}
            data = call("POST", INFER, {"inputs": [in_json]}).json["outputs"][0]["data"]
            np.testing.assert_array_equal(np.array(data, np.float32), np.frombuffer(got, np.float32))
    call.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        post(b"content-encoding: gzip", body=gzip.compress(BODY)),
        post(b"grpc-timeout: 60S"),
        post(b"origin: http://a", b"host: a").replace(b"host: a\r\n", b"", 1).replace(b"host: a", b"host: localhost"),
        post(b"upgrade: h2c", b"connection: upgrade"),
        post(body=b"{"),
        post(b"transfer-encoding: identity"),
        b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n",
        b"HEAD /readyz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        b"HEAD /v2/health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n",
        post(b"connection: close"),
        post(version=b"1.0"),
        post().replace(b"POST", b"PUT"),
        post().replace(b"infer", b"nothing"),
    ],
)
def test_a_request_has_the_same_reply_again(serve, request_bytes):
    app, _ = serve()

    def reply():
        # Without the one that follows if the connection is closed.
        found = DATE.sub(b"", exchange(app.http_port, request_bytes + b"GET /v2 HTTP/1.1\r\nconnection: close\r\n\r\n"))
        alone = DATE.sub(b"", exchange(app.http_port, request_bytes, b"GET /v2 HTTP/1.1\r\nconnection: close\r\n\r\n"))
        return found, alone

    first = reply()
    assert first[0] == first[1]
    assert {reply() for _ in range(3)} == {first}


def test_a_client_is_told_to_send_the_body_each_time(serve):
    _, call = serve()
    head, body = post(b"expect: 100-continue")[: -len(BODY)], BODY
    for _ in range(3):
        assert call(head) == (b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        assert call(body)[0].startswith(b"HTTP/1.1 200")
        # With the body, nobody waits.
        assert call(head + body)[0].startswith(b"HTTP/1.1 200")


def test_however_the_bytes_come_the_replies_are_the_same(serve):
    """Known and unknown heads, bodies by length and in chunks, in pieces of any size."""
    app, _ = serve()
    chunked = b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
    bodies = [BODY.replace(b"[1, 2]}", b"[%d, 0]}" % number) for number in range(6)]
    sent = [post(body=body) for body in bodies]
    sent[2] = chunked + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (bodies[2][:7], bodies[2][7:]))
    sent[2] += b"0\r\n\r\n"
    sent.insert(4, b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
    sent.append(post(b"connection: close", body=bodies[0]))
    whole = b"".join(sent)
    expected = DATE.sub(b"", exchange(app.http_port, whole))
    assert expected.count(b"HTTP/1.1 200 OK") == 8
    draw = random.Random(0)
    for _ in range(12):
        cuts = sorted({0, len(whole), *(draw.randrange(len(whole)) for _ in range(draw.choice((1, 5, 40))))})
        parts = [whole[start:stop] for start, stop in pairwise(cuts)]
        assert DATE.sub(b"", exchange(app.http_port, *parts)) == expected
    # Each request by itself.
    assert DATE.sub(b"", exchange(app.http_port, *sent)) == expected


def test_a_withdrawn_token_ends_at_a_known_head(serve, tmp_path):
    tokens = write_tokens(tmp_path / "tokens.toml")
    app, call = serve(tokens=tokens)
    allowed = post(b"authorization: Bearer predict")
    assert [call(allowed)[0][:12] for _ in range(2)] == [b"HTTP/1.1 200"] * 2
    assert [call(post(b"authorization: Bearer read"))[0][:12] for _ in range(2)] == [b"HTTP/1.1 403"] * 2
    tokens.write_text("tokens = []")
    app._inference.refresh_access()
    assert exchange(app.http_port, post(b"authorization: Bearer predict", b"connection: close"))[:12] == b"HTTP/1.1 401"
    assert call(allowed)[0][:12] == b"HTTP/1.1 401"


def test_limits_hold_for_a_known_head(serve):
    app, call = serve(max_message_bytes=1024)
    large = post(b"connection: close", body=BODY + b" " * 1024)
    for _ in range(2):
        assert exchange(app.http_port, large).startswith(b"HTTP/1.1 413")
    assert call(post())[0].startswith(b"HTTP/1.1 200")
    app._http._batches.stopping = True
    assert call(post())[0].startswith(b"HTTP/1.1 503")


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"xyz", "xyz"),
        (b'a\\"', 'a"'),
        ("éx".encode(), "éx"),
        (b"a\tb", None),
        (b'a"b', None),
        (b"\xff\xffa", None),
    ],
)
def test_an_id_is_read_as_json_has_it(serve, sent, expected):
    """The template of an earlier request says where an id is, not what it means."""
    app, _ = serve()
    call = Http(app.http_port)
    body, headers = in_binary(np.ones((1, 2), np.float32), id="abc")
    for _ in range(2):
        reply = call("POST", INFER, body, **headers)
        size = int(reply.headers["inference-header-content-length"])
        assert json.loads(reply.body[:size])["id"] == "abc"
    reply = call("POST", INFER, body.replace(b"abc", sent), **headers)
    assert reply.status == (400 if expected is None else 200)
    if expected is not None:
        assert json.loads(reply.body[: int(reply.headers["inference-header-content-length"])])["id"] == expected
    # The last one of two counts.
    twice = body.replace(b'"inputs"', b'"id":"last", "inputs"')
    headers = {"Inference_Header_Content_Length": str(int(headers["Inference_Header_Content_Length"]) + 13)}
    for first in (b"abc", b"xyz"):
        reply = call("POST", INFER, twice.replace(b"abc", first), **headers)
        assert json.loads(reply.body[: int(reply.headers["inference-header-content-length"])])["id"] == "last"
    call.close()

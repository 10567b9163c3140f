"""What callers over HTTP can do to a server: limits, rights, deadlines, and how connections end."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from contextlib import ExitStack

import pytest
from http_calls import Http, exchange
from http_paths import http_routes
from layerserve_server.transport.chunking import CHUNK_BYTES
from layerserve_server.transport.http import connection as http_connection
from layerserve_server.transport.http.server import listening
from layerserve_server.transport.perimeter import limits
from layerserve_server.wiring import RIGHTS
from tokens import write_tokens

INFER = "/v2/models/double/infer"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()


def post(*headers: bytes, body: bytes = BODY, length: int | None = None) -> bytes:
    """A request as bytes."""
    size = b"content-length: %d" % (len(body) if length is None else length)
    return b"\r\n".join([b"POST " + INFER.encode() + b" HTTP/1.1", b"host: a", size, *headers, b"", body])


#: The head of a request whose body is in chunks.
CHUNKED = b"POST " + INFER.encode() + b" HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture
def serve(put, start):
    connections = []

    def serve_double(**settings):
        put("double")
        app = start(http_port=0, **settings)
        connections.append(Http(app.http_port))
        return app, connections[-1]

    yield serve_double
    for connection in connections:
        connection.close()


@pytest.fixture
def model(serve):
    """A server and its model, which computes nothing until its gate is set."""

    def held(**settings):
        app, call = serve(**settings)
        with app.repository.leases.lease("double") as version:
            version.model.gate.clear()
            return app, call, version

    return held


def value(app, name, **labels):
    return app.metrics.registry.get_sample_value(f"layerserve_{name}", labels) or 0


def test_probes_and_keep_alive(serve):
    app, call = serve()
    assert call("GET", "/healthz").body == b"ok\n"
    ready = call("GET", "/readyz")
    assert (ready.status, ready.body, ready.headers.get("connection")) == (200, b"ready\n", None)
    assert call("HEAD", "/readyz").status == 200
    assert call("POST", "/readyz", b"x").status == 405
    app.drain()
    ready = call("GET", "/readyz")
    assert (ready.status, ready.headers["connection"]) == (503, "close")
    # Calls are still answered.
    assert call("POST", INFER, BODY).status == 200


def test_a_scraper_at_the_wrong_place_is_told_the_right_one(serve):
    _, call = serve()
    assert b"ask the metrics port for it (--metrics-port" in call("GET", "/metrics").body
    assert b"/openapi.json lists those that do" in call("GET", "/v3").body


def test_a_port_that_is_taken_is_named(serve, make_server):
    app, _ = serve()
    with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{app.http_port}: is the port taken"):
        make_server(http_port=app.http_port)


def test_all_addresses_are_those_of_both_protocols():
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    with listening("::", 0) as listener:
        port = listener.getsockname()[1]
        for host in ("127.0.0.1", "::1"):
            with socket.create_connection((host, port), timeout=5) as client:
                assert client.getpeername()[:2] == (host, port)


REFUSED = {
    "not HTTP": (b"\x16\x03\x01 hello\r\n\r\n", b"HTTP/1.1 400"),
    "large header": (b"GET /v2 HTTP/1.1\r\nhost: a\r\nx: " + b"a" * 20_000 + b"\r\n\r\n", b"HTTP/1.1 431"),
    "header without end": (b"GET /v2 HTTP/1.1\r\nx: " + b"a" * 200_000, b"HTTP/1.1 431"),
    "long path": (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 431"),
    "many pipelined": (b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n" * 40, b""),
    "two lengths": (post(b"content-length: 3"), b"HTTP/1.1 400"),
    "smuggled": (post(b"transfer-encoding: chunked"), b"HTTP/1.1 400"),
    "length and chunks": (CHUNKED[:-2] + b"content-length: 3\r\n\r\n0\r\n\r\n", b"HTTP/1.1 400"),
    "a folded header": (post(b"x: a\r\n b"), b"HTTP/1.1 400"),
    "lines that end with LF": (post().replace(b"\r\n", b"\n"), b"HTTP/1.1 400"),
    "a line that ends with LF": (post(b"x: a\ny: b"), b"HTTP/1.1 400"),
    "a line that ends with CR": (post(b"x: a\ry: b"), b"HTTP/1.1 400"),
    "NUL in a header": (post(b"x: a\0b"), b"HTTP/1.1 400"),
    "NUL in a name": (post(b"x\0: a"), b"HTTP/1.1 400"),
    "a space before the colon": (post(b"x : a"), b"HTTP/1.1 400"),
    "a length below zero": (post().replace(b"content-length: ", b"content-length: -"), b"HTTP/1.1 400"),
    "a length with a sign": (post().replace(b"content-length: ", b"content-length: +"), b"HTTP/1.1 400"),
    "a length with a list": (post().replace(b"content-length: ", b"content-length: 1, "), b"HTTP/1.1 400"),
    "a size of a chunk below zero": (CHUNKED + b"-1\r\n", b"HTTP/1.1 400"),
    "a chunk that is longer than its size": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", b"HTTP/1.1 400"),
    "no path": (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", b"HTTP/1.1 404"),
    "many trailers": (CHUNKED + b"0\r\n" + b"a: b\r\n" * 100_000, b"HTTP/1.1 431"),
    "a long trailer": (CHUNKED + b"0\r\na: " + b"a" * 600_000, b"HTTP/1.1 431"),
    "a long line of a chunk": (CHUNKED + b"1;" + b"a" * 600_000, b"HTTP/1.1 431"),
    "too large": (post(length=1 << 40), b"HTTP/1.1 413"),
    "wrong timeout": (post(b"grpc-timeout: soon", b"connection: close"), b"HTTP/1.1 400"),
}


@pytest.mark.parametrize(("sent", "answer"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_request_ends_its_connection(serve, sent, answer, wait_until):
    app, call = serve()
    received = exchange(app.http_port, sent)
    assert received.startswith(answer)
    assert call("GET", "/v2").status == 200
    wait_until(lambda: app._transport.memory.held == 0)


@pytest.mark.parametrize("name", ["host", "transfer-encoding", "grpc-timeout"])
def test_a_header_that_decides_is_given_once(serve, name):
    """Another server on the way might take another one."""
    app, _ = serve()
    values = {"host": ("b", "c"), "transfer-encoding": ("identity", "chunked"), "grpc-timeout": ("1S", "2S")}[name]
    chunked = name == "transfer-encoding"
    lines = [f"{name}: {value}".encode() for value in values] + [b"host: a"] * (name != "host")
    lines += [] if chunked else [b"content-length: %d" % len(BODY)]
    body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY) if chunked else BODY
    reply = exchange(app.http_port, b"\r\n".join([b"POST " + INFER.encode() + b" HTTP/1.1", *lines, b"", body]))
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert f"header '{name}': got 2 headers, expected one".encode() in reply


def test_a_length_may_have_any_number_of_zeros_before_it(serve):
    app, _ = serve()
    sent = post(b"connection: close").replace(b"content-length: ", b"content-length: " + b"0" * 5000)
    assert exchange(app.http_port, sent).startswith(b"HTTP/1.1 200")


def test_requests_may_be_sent_ahead(serve):
    app, _ = serve()
    bodies = [BODY.replace(b"[1, 2]}", b"[%d, 0]}" % number) for number in range(5)]
    last = b"connection: close"
    sent = b"".join(post(*([last] if body is bodies[-1] else []), body=body) for body in bodies)
    replies = exchange(app.http_port, sent).split(b"HTTP/1.1 200 OK")[1:]
    assert [json.loads(reply.partition(b"\r\n\r\n")[2])["outputs"][0]["data"] for reply in replies] == [
        [2 * number, 0] for number in range(5)
    ]


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(
    "trailer",
    [
        b"grpc-timeout: 0n",
        b"grpc-timeout: soon",
        b"authorization: Bearer wrong",
        b"host: b",
        b"origin: http://evil.example",
        b"content-encoding: gzip",
        b"inference-header-content-length: 1",
        b"x-request-id: later",
    ],
)
def test_what_follows_the_chunks_of_a_body_is_no_header(serve, tmp_path, trailer, pieces):
    """A proxy has checked the headers, and passes trailers on as they are."""
    app, _ = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    token = b"authorization: Bearer all"
    body = b"%x\r\n%s\r\n" % (len(BODY), BODY)
    last = b"0\r\n%s\r\n\r\n" % trailer
    sent = [CHUNKED.replace(b"host: a", b"host: a\r\n" + token) + body, last]
    # With another request behind it, whose headers count.
    sent[-1] += post(token, b"connection: close")
    received = exchange(app.http_port, *(sent if pieces == 2 else [b"".join(sent)]))
    assert received.count(b"HTTP/1.1 200 OK") == received.count(b'"data":[2.0,4.0]') == 2
    assert b"later" not in received


def test_a_token_after_the_body_opens_nothing(serve, tmp_path):
    app, _ = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    body = b"%x\r\n%s\r\n" % (len(BODY), BODY)
    received = exchange(app.http_port, CHUNKED + body + b"0\r\nauthorization: Bearer all\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 401")


UPGRADE = b"upgrade: h2c\r\nconnection: upgrade"


@pytest.mark.parametrize("size", [7, 10_000])
@pytest.mark.parametrize("last", [b"connection: close", UPGRADE + b", close"], ids=["plain", "upgrade"])
def test_a_request_that_asks_for_another_protocol_is_answered_with_its_body(serve, last, size):
    """As Java's client and curl ask for HTTP/2, also in front of other requests."""
    app, _ = serve()
    sent = post(UPGRADE) + post() + b"GET /v2 HTTP/1.1\r\nhost: a\r\n" + UPGRADE + b"\r\n\r\n" + post(last)
    received = exchange(app.http_port, *(sent[at : at + size] for at in range(0, len(sent), size)))
    assert received.count(b"HTTP/1.1 200 OK") == 4
    assert received.count(b'"data":[2.0,4.0]') == 3


@pytest.mark.parametrize("header", [b"x: " + b"a" * 20_000, b"transfer-encoding: chunked"])
def test_a_request_that_asks_for_another_protocol_has_the_same_limits(serve, header):
    app, _ = serve()
    assert exchange(app.http_port, post(UPGRADE, header)).startswith(exchange(app.http_port, post(header))[:12])
    assert exchange(app.http_port, 40 * post(UPGRADE)) == b""


@pytest.mark.parametrize(
    "sent", [b"", b"GET /v2 HTTP/1.1\r\nho", post()[:-5], b"\r\n"], ids=["nothing", "headers", "body", "empty lines"]
)
def test_a_client_that_sends_too_slowly_is_cut_off(serve, sent):
    app, call = serve(handshake_seconds=0.2, stream_idle_seconds=0.4)
    began = time.monotonic()
    received = exchange(app.http_port, sent)
    # By default it is after 20 seconds.
    assert time.monotonic() - began < 15
    assert received.startswith(b"HTTP/1.1 408" if sent else b"")
    assert bool(received) is bool(sent)
    assert call("GET", "/v2").status == 200


@pytest.mark.parametrize("path", ["/nothing", "/v2/models/double/infer"])
def test_the_reply_to_a_refused_request_reaches_a_client_that_still_sends_it(serve, tmp_path, path):
    app, _ = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    status = Http(app.http_port)("POST", path, bytes(20_000_000)).status
    assert status == (404 if path == "/nothing" else 401)


def test_a_client_that_never_ends_a_refused_request_is_cut_off(serve):
    app, call = serve(stalled_seconds=0.3)

    def send_slowly(client):
        for _ in range(1000):
            client.sendall(b"x")
            time.sleep(0.02)

    with socket.create_connection(("127.0.0.1", app.http_port), timeout=30) as client:
        client.sendall(b"PUT /nothing HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000000\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 404"
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            send_slowly(client)
    assert call("GET", "/v2").status == 200


def test_a_client_that_reads_nothing_is_cut_off(serve, wait_until, monkeypatch, caplog):
    monkeypatch.setattr(limits, "SLOWEST_BYTES", 1 << 30)
    app, call = serve(stalled_seconds=0.3)
    rows = 600_000
    head = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "parameters": {"binary_data_size": rows * 8}}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    body = text + bytes(rows * 8)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", app.http_port))
        client.sendall(post(b"inference-header-content-length: %d" % len(text), body=body))
        wait_until(lambda: app._transport.memory.held > rows * 8)
        wait_until(lambda: app._transport.memory.held == 0)
    assert call("GET", "/v2").status == 200
    assert "a request over HTTP failed" not in caplog.text


def test_a_long_reply_is_passed_on_as_it_is_read(serve, wait_until):
    app, call = serve(max_batch_rows=2_000_000)
    rows = 2_000_000
    head = {"name": "x", "shape": [rows, 2], "datatype": "FP32", "parameters": {"binary_data_size": rows * 8}}
    text = json.dumps({"inputs": [head], "parameters": {"binary_data_output": True}}).encode()
    length = b"inference-header-content-length: %d" % len(text)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", app.http_port))
        client.sendall(post(length, body=text + bytes(rows * 8)))
        wait_until(lambda: app._transport.memory.held >= 2 * rows * 8)
        received = bytearray(client.recv(400))
        (one,) = [one for one in app._http._connections._open if not one.idle]
        # Of asyncio, which copies what waits.
        assert one.transport.get_write_buffer_size() <= 2 * CHUNK_BYTES
        client.settimeout(10)
        size = int(re.search(rb"\ncontent-length: (\d+)", received)[1])
        head_size = received.index(b"\r\n\r\n") + 4
        while len(received) < head_size + size:
            received += client.recv(1 << 20)
    assert len(received) == head_size + size
    assert call("GET", "/v2").status == 200


def test_a_client_that_leaves_cancels_its_request(model, wait_until):
    app, call, version = model()
    with socket.create_connection(("127.0.0.1", app.http_port)) as first:
        first.sendall(post())
        wait_until(lambda: version.model.begun)
        with socket.create_connection(("127.0.0.1", app.http_port)) as client:
            client.sendall(post())
            wait_until(lambda: version.queue.queued_rows == 1)
        labels = {"method": "http:ModelInfer", "model": "double", "version": "1", "status": "CANCELLED"}
        wait_until(lambda: value(app, "requests_total", **labels) == 1)
        version.model.gate.set()
        assert first.recv(12) == b"HTTP/1.1 200"
    assert call("POST", INFER, BODY).status == 200
    # The one that left was never computed.
    assert version.model.begun == [1, 1]


@pytest.mark.parametrize("binary", [True, False])
def test_a_client_that_leaves_before_a_long_reply_is_no_fault(model, wait_until, binary, caplog):
    app, call, version = model(max_batch_rows=20_000)
    x = {"name": "x", "shape": [20_000, 2], "datatype": "FP32", "data": [1] * 40_000}
    body = json.dumps({"inputs": [x], "parameters": {"binary_data_output": binary}}).encode()
    with socket.create_connection(("127.0.0.1", app.http_port)) as client:
        client.sendall(post(body=body))
        wait_until(lambda: version.model.begun)
    version.model.gate.set()
    wait_until(lambda: app._transport.memory.held == 0)
    assert call("POST", INFER, BODY).status == 200
    wait_until(lambda: not app._http._app._sending)
    assert "a request over HTTP failed" not in caplog.text


def test_a_deadline_ends_a_request(model):
    _, call, version = model()
    reply = call("POST", INFER, BODY, grpc_timeout="50m")
    assert (reply.status, reply.headers["layerserve-reason"]) == (504, "deadline_passed")
    version.model.gate.set()
    assert call("POST", INFER, BODY, grpc_timeout="30S").status == 200
    assert call("POST", INFER, BODY, grpc_timeout="0m").status == 504


def test_a_full_server_says_when_to_try_again(model, wait_until):
    app, call, version = model(max_calls=8)
    sockets = [socket.create_connection(("127.0.0.1", app.http_port)) for _ in range(8)]
    for one in sockets:
        one.sendall(post())
    wait_until(lambda: sum(version.model.begun) + version.queue.queued_rows == 8)
    reply = call("POST", INFER, BODY)
    assert (reply.status, reply.headers["retry-after"], reply.headers["layerserve-reason"]) == (429, "1", "busy")
    version.model.gate.set()
    for one in sockets:
        assert one.recv(12) == b"HTTP/1.1 200"
        one.close()


@pytest.mark.parametrize("sent", [post()[:-5], CHUNKED, CHUNKED + b"5\r\n12"], ids=["length", "no chunk", "chunk"])
def test_requests_whose_bodies_come_slowly_take_no_place_of_others(serve, wait_until, sent):
    """Anyone may begin any number of them, and they cost only their connections."""
    app, call = serve(max_calls=8)
    sockets = [socket.create_connection(("127.0.0.1", app.http_port)) for _ in range(10)]
    for one in sockets:
        one.sendall(sent)
    wait_until(lambda: len(app._http._app._receiving) == 10)
    for _ in range(2):
        assert call("POST", INFER, BODY).status == 200
    for one in sockets:
        one.close()
    wait_until(lambda: not app._http._batches.open)
    assert call("POST", INFER, BODY).status == 200


def test_requests_count_towards_the_memory_of_all_callers(serve, wait_until):
    app, call = serve(max_buffered_bytes=1 << 20)
    held = bytes(600_000)
    with socket.create_connection(("127.0.0.1", app.http_port)) as client:
        client.sendall(post(body=held, length=len(held) + 1))
        wait_until(lambda: app._transport.memory.held >= 500_000)
        reply = call("POST", INFER, held)
        assert (reply.status, reply.headers["layerserve-reason"]) == (429, "busy")
    wait_until(lambda: app._transport.memory.held == 0)


def test_a_message_counts_until_it_is_answered(model, wait_until):
    """Its JSON has two bytes for each number, and the message that is made of it four."""
    app, _, version = model()
    size = 20_000
    array = {"name": "x", "shape": [size // 2, 2], "datatype": "FP32", "data": [1] * size}
    body = json.dumps({"inputs": [array]}, separators=(",", ":")).encode()
    with socket.create_connection(("127.0.0.1", app.http_port)) as client:
        client.sendall(post(body=body))
        wait_until(lambda: version.model.begun)
        assert app._transport.memory.held >= len(body) + 4 * size
        version.model.gate.set()
        assert client.recv(12) == b"HTTP/1.1 200"
    wait_until(lambda: app._transport.memory.held == 0)


def test_connections_are_limited_and_idle_ones_make_room(serve, wait_until):
    app, call = serve(max_peer_connections=4)
    assert call("GET", "/v2").status == 200
    sockets = [socket.create_connection(("127.0.0.1", app.http_port)) for _ in range(20)]
    time.sleep(0.1)
    for _ in range(6):
        # Each is answered, though those before stay open.
        sockets.append(socket.create_connection(("127.0.0.1", app.http_port)))
        sockets[-1].sendall(post())
        assert sockets[-1].recv(12) == b"HTTP/1.1 200"
    assert len(app._http._connections._open) <= 4
    for one in sockets:
        one.close()


def test_connections_are_counted_by_networks(serve, monkeypatch):
    monkeypatch.setattr(http_connection, "counted_by", lambda host: host.rpartition(".")[0])
    app, _ = serve(max_peer_connections=4)
    with ExitStack() as stack:
        for number in range(2, 10):
            source = (f"127.0.0.{number}", 0)
            one = stack.enter_context(socket.create_connection(("127.0.0.1", app.http_port), source_address=source))
            one.sendall(post())
            assert one.recv(12) == b"HTTP/1.1 200"
        assert len(app._http._connections._open) <= 4


def test_an_internal_error_has_an_id_and_no_details(serve, monkeypatch, caplog):
    _, call = serve()

    def fail(*_):
        raise RuntimeError("secret")

    monkeypatch.setattr("layerserve_server.services.rest.infer_encoder.dumps_array", fail)
    reply = call("POST", INFER, BODY)
    assert reply.status == 500
    assert "secret" not in reply.json["error"]
    assert reply.headers["layerserve-correlation-id"] in reply.json["error"]
    assert any(
        reply.headers["layerserve-correlation-id"] == getattr(one, "correlation_id", "") for one in caplog.records
    )


def test_a_fault_of_the_server_itself_is_logged_and_ends_only_its_request(serve, monkeypatch, caplog):
    _, call = serve()
    with monkeypatch.context() as patch:
        patch.setattr("layerserve_server.transport.http.app.failure_reply", lambda wire: 1 / 0)
        reply = call("POST", INFER, b"{")
    assert (reply.status, reply.json) == (500, {"error": "internal error; see the server's log"})
    assert reply.headers["content-type"] == "application/json"
    assert "a request over HTTP failed" in caplog.text
    assert call("POST", INFER, BODY).status == 200


def test_each_path_needs_the_right_of_its_method(serve, tmp_path):
    tokens = write_tokens(tmp_path / "tokens.toml")
    app, call = serve(tokens=tokens)
    expected = {
        ("GET", "/healthz"): "open",
        ("GET", "/v2/health/live"): "open",
        ("POST", INFER): "predict",
        ("GET", "/v2/models/double"): "any",
    }
    for (verb, path), right in expected.items():
        body = BODY if verb == "POST" else None
        for token in (None, "wrong", "predict", "read", "train", "manage", "expired", "other-models"):
            reply = call(verb, path, body, **({} if token is None else {"Authorization": f"Bearer {token}"}))
            if token in (None, "wrong", "expired"):
                wanted = 200 if right == "open" else 401
            elif token == "other-models":
                wanted = 403 if right in ("any", "predict", "read") else 200
            else:
                wanted = 200 if right in ("open", "any", token) else 403
            assert reply.status == wanted, (path, token, reply.body)
            assert (reply.headers.get("www-authenticate") == "Bearer") is (wanted == 401)
    # Nothing of a body is taken without a right.
    assert exchange(app.http_port, post(length=100_000_000)).startswith(b"HTTP/1.1 401")


def test_web_pages_of_other_sites_are_refused(serve):
    app, call = serve()
    for origin in ("http://evil.example", "null", f"http://localhost:{app.http_port}"):
        reply = call("POST", INFER, BODY, Origin=origin)
        assert (reply.status, reply.headers["layerserve-reason"]) == (403, "forbidden")
    assert call("POST", INFER, BODY, Origin=f"https://127.0.0.1:{app.http_port}").status == 200


def test_a_site_that_has_the_servers_address_changes_nothing(serve, tmp_path):
    """DNS rebinding: for the browser it is the site of the server."""
    _, call = serve(http_hosts="models.example.com")
    names = {"Host": "evil.example", "Origin": "http://evil.example"}
    reply = call("POST", INFER, BODY, **names)
    assert (reply.status, "header 'host': got 'evil.example'" in reply.json["error"]) == (403, True)
    # A program, or a browser that uses a name of the server.
    assert call("POST", INFER, BODY, Host="evil.example").status == 200
    for host in ("models.example.com:80", "localhost:8501", "[::1]:8501"):
        assert call("POST", INFER, BODY, Host=host, Origin=f"http://{host}").status == 200
    # A browser keeps tokens from other sites.
    _, call = serve(tokens=write_tokens(tmp_path / "tokens.toml"))
    assert call("POST", INFER, BODY, Authorization="Bearer predict", **names).status == 200


def test_every_route_has_a_method_with_a_right():
    routes = http_routes()
    assert len(routes) > 10
    assert [route.path for route in routes if route.method not in RIGHTS] == []


def test_open_requests_finish_while_the_server_stops(model, wait_until):
    app, _, version = model()
    with socket.create_connection(("127.0.0.1", app.http_port)) as client:
        client.sendall(post())
        wait_until(lambda: version.model.begun)
        stopping = threading.Thread(target=app.stop, args=(30,))
        stopping.start()
        wait_until(lambda: app._http._batches.stopping)
        late = Http(app.http_port)
        reply = late("POST", INFER, BODY)
        late.close()
        assert (reply.status, reply.headers["connection"]) == (503, "close")
        version.model.gate.set()
        received = b""
        while piece := client.recv(65536):
            received += piece
        assert received.startswith(b"HTTP/1.1 200")
        assert b"connection: close" in received
        stopping.join()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", app.http_port)).close()

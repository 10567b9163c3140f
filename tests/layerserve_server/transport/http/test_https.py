"""HTTP with the certificates of the server."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl

import pytest
from authorities import Authority
from tokens import write_tokens

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}).encode()
ENTRY = """
[[certificates]]
name = "shop"
rights = ["predict"]
models = ["double"]
"""


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path)


def context_of(authority, name=None):
    """What a client trusts, and its certificate."""
    context = ssl.create_default_context(cafile=str(authority.root))
    if name is not None:
        authority.issue_client(name).configure_cert(context)
    return context


def status(app, context, verb="POST", path="/v2/models/double/infer"):
    connection = http.client.HTTPSConnection("localhost", app.http_port, context=context, timeout=30)
    try:
        connection.request(verb, path, BODY if verb == "POST" else None)
        return connection.getresponse().status
    finally:
        connection.close()


def served_certificate(app, authority):
    """The certificate that a new connection gets."""
    with (
        socket.create_connection(("localhost", app.http_port), timeout=30) as plain,
        context_of(authority).wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        return connection.getpeercert(binary_form=True)


def test_connections_use_the_newest_certificate(start, put, authority):
    put("double")
    app = start(http_port=0, tls_certificate=authority.chain, tls_key=authority.key)
    assert status(app, context_of(authority)) == 200
    first = served_certificate(app, authority)
    assert served_certificate(app, authority) == first
    authority.issue()
    app._inference.refresh_access()
    assert served_certificate(app, authority) != first
    assert status(app, context_of(authority)) == 200
    # Bytes that aren't TLS cost nothing but their connection.
    with socket.create_connection(("localhost", app.http_port), timeout=30) as client:
        client.sendall(b"GET /v2 HTTP/1.1\r\nhost: a\r\n\r\n")
        assert b"200" not in client.recv(100)
    assert status(app, context_of(authority)) == 200


def test_connections_count_before_their_handshake_is_complete(start, put, authority, wait_until):
    put("double")
    files = {"tls_certificate": authority.chain, "tls_key": authority.key}
    app = start(http_port=0, max_peer_connections=4, handshake_seconds=1, **files)

    def is_open(connection):
        try:
            return connection.recv(1) != b""
        except BlockingIOError:
            return True
        except ConnectionResetError:
            return False

    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("localhost", app.http_port), timeout=30)) for _ in range(12)
        ]
        for connection in silent:
            connection.setblocking(False)
        wait_until(lambda: sum(map(is_open, silent)) == 4)
        # The oldest one makes room.
        assert status(app, context_of(authority)) == 200
        assert sum(map(is_open, silent)) == 3
        wait_until(lambda: not any(map(is_open, silent)))
    assert status(app, context_of(authority)) == 200


def test_a_request_may_come_together_with_the_end_of_the_handshake(start, put, authority):
    put("double")
    app = start(http_port=0, tls_certificate=authority.chain, tls_key=authority.key)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context_of(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    request = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
    with socket.create_connection(("localhost", app.http_port), timeout=30) as connection:
        while True:
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                connection.sendall(outgoing.read())
                incoming.write(connection.recv(65536))
        client.write(request)
        connection.sendall(outgoing.read())
        answer = b""
        while not answer:
            incoming.write(connection.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = client.read(100)
        assert answer.startswith(b"HTTP/1.1 200")


def test_a_client_certificate_has_the_rights_of_its_name(start, put, authority, tmp_path):
    put("double")
    tokens = write_tokens(tmp_path / "tokens.toml", more=ENTRY)
    app = start(http_port=0, tokens=tokens, **authority.settings)
    assert status(app, context_of(authority, "shop")) == 200
    assert status(app, context_of(authority, "shop"), "GET", "/v2/models/other") == 403
    assert status(app, context_of(authority, "other")) == 401
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.BadStatusLine)):
        status(app, context_of(authority))


def test_the_reply_to_a_refused_request_reaches_a_client_that_still_sends_it(start, put, authority):
    put("double")
    app = start(http_port=0, tls_certificate=authority.chain, tls_key=authority.key)
    connection = http.client.HTTPSConnection("localhost", app.http_port, context=context_of(authority), timeout=30)
    with contextlib.closing(connection):
        connection.request("PUT", "/nothing", bytes(20_000_000))
        assert connection.getresponse().status == 404

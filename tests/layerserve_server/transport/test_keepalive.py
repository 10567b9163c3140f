"""Keepalive and age of connections: dead clients are found, and living ones are made to connect again."""

from __future__ import annotations

import socket
import time

import grpc
import pytest
from echo_servers import ECHO, needs_native, server_of
from layerserve_server.transport.call import Routes
from layerserve_server.transport.native import NativeServer, NativeUnavailableError
from some_limits import some_limits

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS, SETTINGS_ACK = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
AGE = {"max_connection_age_seconds": 0.2}


@pytest.fixture
def serve_aging(serve_echo, request):
    """As `serve_echo`, on the transports that know an age."""
    if "NativeServer" in request.node.name:
        pytest.skip("it has no age of connections")
    return serve_echo


def test_a_client_that_answers_no_ping_is_disconnected(serve_echo):
    _, _, server, _ = serve_echo({"keepalive_seconds": 0.1, "keepalive_timeout_seconds": 0.2})
    with socket.create_connection(("127.0.0.1", server.port), timeout=40) as client:
        client.sendall(PREFACE + SETTINGS + SETTINGS_ACK)
        # By default the first ping comes after a minute.
        while client.recv(4096):
            pass


def test_connections_are_renewed_without_an_error_and_streams_go_on(serve_aging):
    echo, _, server, _ = serve_aging(AGE)
    # A call that crosses the end of its connection is sent again by gRPC itself, unless the client has turned that off.
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stream = channel.unary_stream(ECHO + "endless")(b"", timeout=60)
        assert next(stream) == b"open"
        peers = set()
        ends = time.monotonic() + 60
        while len(peers) < 3:
            assert time.monotonic() < ends
            assert channel.unary_unary(ECHO + "echo")(b"a", timeout=30) == b"a"
            peers.add(echo.client)
        assert not echo.gone.is_set()
        stream.cancel()
        assert echo.gone.wait(30)


def test_the_grace_period_ends_streams(serve_aging):
    echo, _, _, channel = serve_aging({**AGE, "max_connection_age_grace_seconds": 0.1})
    stream = channel.unary_stream(ECHO + "endless")(b"", timeout=60)
    assert next(stream) == b"open"
    with pytest.raises(grpc.RpcError) as caught:
        next(stream)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert echo.gone.wait(30)


@needs_native
def test_the_native_transport_refuses_an_age():
    limits = some_limits(max_message_bytes=1, rpc_threads=1, max_streams=1, max_calls=8, **AGE)
    with pytest.raises(NativeUnavailableError, match="doesn't support max_connection_age_seconds"):
        server_of(NativeServer, Routes(), limits)

"""Ports: who has one that is taken, and whether clients are connected."""

import errno
import os
import re
import socket
from importlib.util import find_spec

import pytest
from layerserve_server.transport import ports
from layerserve_server.transport.ports import TakenPortError, claim, connected, serving


@pytest.fixture
def taken():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_refused(taken):
    with pytest.raises(TakenPortError, match=f"^can't listen on 127.0.0.1:{taken}: another process has the port$"):
        claim("127.0.0.1", taken)
    claim("127.0.0.1", 0)
    claim("unix:/nowhere/socket", taken)


def test_an_address_of_another_machine_is_named_as_such():
    text = f"can't listen on 192.0.2.1:1: {re.escape(os.strerror(errno.EADDRNOTAVAIL))}"
    with pytest.raises(OSError, match=text) as caught:
        claim("192.0.2.1", 1)
    assert not isinstance(caught.value, TakenPortError)


@pytest.mark.parametrize(
    "transport",
    [
        "grpcio",
        pytest.param(
            "native",
            marks=pytest.mark.skipif(find_spec("pygrpc_native") is None, reason="the extra 'fast' isn't installed"),
        ),
    ],
)
def test_a_server_says_whether_it_serves(put, start, transport):
    put()
    app = start(transport=transport)
    assert serving("127.0.0.1", app.grpc_port) is True
    app.drain()
    assert serving("127.0.0.1", app.grpc_port) is False


def test_another_process_says_nothing(taken, monkeypatch):
    monkeypatch.setattr(ports, "ASK_SECONDS", 0.2)
    assert serving("127.0.0.1", taken) is None


def test_who_is_connected_is_known(wait_until):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not connected({port})
        with socket.create_connection(("127.0.0.1", port)):
            # Also before the server has accepted it.
            assert connected({port, -1})
            assert not connected({-1})
        wait_until(lambda: not connected({port}))


@pytest.mark.parametrize("content", [None, "head\nother\n"])
def test_where_it_is_not_known_clients_count_as_connected(tmp_path, monkeypatch, content):
    table = tmp_path / "tcp"
    if content is not None:
        table.write_text(content)
    monkeypatch.setattr(ports, "TABLES", (table,))
    assert connected({1})

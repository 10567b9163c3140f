"""The addresses of the servers behind a client's address."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace

import pytest
from clocks import replace_time
from layerserve import InvalidArgument
from layerserve.calls import server_addresses
from layerserve.calls.server_addresses import RESOLVE_SECONDS, ServerAddresses


@pytest.fixture
def resolver(monkeypatch):
    """What names resolve to, and a clock. A thread ends before it is seen to have begun."""
    state = SimpleNamespace(found=[], asked=[], error=None, now=100.0)

    def getaddrinfo(host, port, **options):
        state.asked.append((host, port))
        if state.error:
            raise state.error
        return [(socket.AF_INET6 if ":" in ip else socket.AF_INET, 1, 6, "", (ip, port)) for ip in state.found]

    class AtOnce(threading.Thread):
        def start(self):
            super().start()
            self.join()

    replace_time(monkeypatch, server_addresses, monotonic=lambda: state.now)
    monkeypatch.setattr(
        server_addresses,
        "socket",
        SimpleNamespace(
            **{name: getattr(socket, name) for name in ("AF_INET", "AF_INET6", "SOCK_STREAM")}, getaddrinfo=getaddrinfo
        ),
    )
    monkeypatch.setattr(server_addresses, "threading", SimpleNamespace(Thread=AtOnce, Event=threading.Event))
    return state


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("10.0.0.1:1", ("10.0.0.1:1",)),
        ("10.0.0.1:1, 10.0.0.2:2,10.0.0.1:1", ("10.0.0.1:1", "10.0.0.2:2")),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", ("10.0.0.1:1", "10.0.0.2:2")),
        ("[::1]:1,[::2]:1", ("[::1]:1", "[::2]:1")),
        ("ipv6:[::1]:1,[::2]:1", ("[::1]:1", "[::2]:1")),
    ],
)
def test_ip_addresses_are_known(resolver, address, expected):
    made = ServerAddresses(address)
    assert not made.pending()
    assert made.known() == expected
    assert resolver.asked == []


@pytest.mark.parametrize("address", ["models.svc:8500", "dns:///models.svc:8500", "dns:models.svc:8500"])
def test_a_name_is_resolved(resolver, address):
    resolver.found = ["10.0.0.2", "10.0.0.1", "10.0.0.1"]
    made = ServerAddresses(address)
    assert made.pending()
    made.wait(1.0)
    assert not made.pending()
    assert made.known() == ("10.0.0.1:8500", "10.0.0.2:8500")
    assert resolver.asked == [("models.svc", 8500)]


def test_a_server_with_addresses_of_both_kinds_is_one(resolver):
    resolver.found = ["fd00::2", "10.0.0.1", "fd00::1", "10.0.0.2"]
    made = ServerAddresses("m:1")
    made.wait(1.0)
    assert made.known() == ("10.0.0.1:1", "10.0.0.2:1")
    resolver.found = ["fd00::2", "fd00::1"]
    made = ServerAddresses("m:1")
    made.wait(1.0)
    assert made.known() == ("[fd00::1]:1", "[fd00::2]:1")


def test_a_name_is_resolved_again_after_a_while(resolver):
    resolver.found = ["10.0.0.1", "10.0.0.2"]
    made = ServerAddresses("m:1")
    made.wait(1.0)
    before = made.known()
    resolver.found = ["10.0.0.3"]
    resolver.now += RESOLVE_SECONDS - 0.01
    assert made.known() is before
    assert len(resolver.asked) == 1
    resolver.now += 0.01
    assert made.known() == ("10.0.0.3:1",)
    after = made.known()
    resolver.now += RESOLVE_SECONDS
    assert made.known() is after
    assert len(resolver.asked) == 3


@pytest.mark.parametrize("error", [socket.gaierror("no such name"), UnicodeError("label too long")])
def test_what_cannot_be_resolved_keeps_its_addresses(resolver, error):
    resolver.error = error
    made = ServerAddresses("m:1")
    made.wait(1.0)
    assert not made.pending()
    assert made.known() == ()
    resolver.error, resolver.found = None, ["10.0.0.1", "10.0.0.2"]
    resolver.now += RESOLVE_SECONDS
    found = made.known()
    assert len(found) == 2
    resolver.error = error
    resolver.now += RESOLVE_SECONDS
    assert made.known() is found


@pytest.mark.parametrize("address", ["unix:/s", "xds:///models", "dns://8.8.8.8/models:1", "dns:///models"])
def test_an_address_that_only_grpc_can_resolve_is_refused(address):
    with pytest.raises(InvalidArgument, match="expected host:port, or several IP addresses with ports"):
        ServerAddresses(address)

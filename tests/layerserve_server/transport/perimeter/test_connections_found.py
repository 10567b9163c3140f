"""Connections that are found while others come and go."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from layerserve_server.transport.perimeter.connections import FREE_DESCRIPTORS, Connections
from some_limits import some_limits

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="connections are watched on Linux only")
LIMITS = some_limits(max_message_bytes=1 << 20, rpc_threads=1, max_streams=4, max_calls=8, max_buffered_bytes=8 << 20)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def taken(listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    """A connection: the caller's end, and the one that was taken."""
    caller = socket.create_connection(listener.getsockname(), timeout=30)
    return caller, listener.accept()[0]


def test_a_connection_is_found_behind_other_descriptors(listener: socket.socket) -> None:
    watched = Connections(LIMITS)
    watched._port = listener.getsockname()[1]
    with contextlib.ExitStack() as files:
        opened = [files.enter_context(Path(os.devnull).open()) for _ in range(3 * FREE_DESCRIPTORS)]
        caller, accepted = taken(listener)
        # Threads of other tests may have closed a lower one meanwhile.
        above = fcntl.fcntl(accepted, fcntl.F_DUPFD_CLOEXEC, opened[-1].fileno() + 1)
        accepted.close()
        own = socket.socket(fileno=above)
        for file in opened[10:60]:
            file.close()
        watched._search()
        assert [found.descriptor for found in watched._connections.values()] == [own.fileno()]
    again, other = taken(listener)
    with again, other:
        # One that comes later lies below it, and gets what was another's descriptor.
        assert other.fileno() < own.fileno()
        watched._search()
        assert {found.descriptor for found in watched._connections.values()} == {own.fileno(), other.fileno()}
        caller.close()
        own.close()
        watched._search()
        assert [found.descriptor for found in watched._connections.values()] == [other.fileno()]
    watched._search()
    assert watched._connections == {}


def test_another_connection_on_the_same_descriptor_is_another_one(listener: socket.socket) -> None:
    watched = Connections(LIMITS)
    watched._port = listener.getsockname()[1]
    caller, own = taken(listener)
    watched._search()
    (first,) = watched._connections.values()
    with caller, socket.create_connection(listener.getsockname(), timeout=30) as again:
        own.close()
        other = listener.accept()[0]
        with other:
            assert other.fileno() == first.descriptor
            watched._search()
            (second,) = watched._connections.values()
            assert second is not first
            first.close()  # it is closed: nothing happens to the one that has its descriptor now
            again.sendall(b"x")
            assert other.recv(1) == b"x"


def test_a_connection_that_came_after_the_last_look_is_ended_with_the_others(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Connections(LIMITS)
    looked = threading.Event()
    look = watched._check
    monkeypatch.setattr(watched, "_check", lambda elapsed: look(elapsed) or looked.set())
    watched.start(listener.getsockname()[1])
    assert looked.wait(30)
    # The watching is held up from here on, as by a busy machine: what comes now, no look has seen.
    monkeypatch.setattr(watched, "_watch", lambda: None)
    search, held = watched._search, threading.current_thread()
    monkeypatch.setattr(watched, "_search", lambda: search() if threading.current_thread() is held else None)
    caller, own = taken(listener)
    with caller, own:
        watched.stop()
        assert caller.recv(1) == b""
    assert watched._connections == {}

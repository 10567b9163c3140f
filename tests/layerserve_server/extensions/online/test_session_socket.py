"""The socket of a session's process: one connection at a time, and signals that end a wait."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from layerserve_server.extensions.online import session_socket
from layerserve_server.extensions.online.frames import Frame
from layerserve_server.extensions.online.session_client import SessionClient, SessionClosedError
from layerserve_server.extensions.online.session_socket import SessionSocket, socket_path
from layerserve_server.training.run_folder.result import INTERRUPT, Interruption

LARGE = Frame({"kind": "step"}, (), b"0123456789" * 300_000)


@pytest.fixture(name="opened")
def _opened(tmp_path: Path) -> Iterator[SessionSocket]:
    # Longer than the path of a socket may be.
    folder = tmp_path / ("a" * 120)
    folder.mkdir()
    handler = signal.getsignal(INTERRUPT)
    made = SessionSocket(folder)
    signal.signal(INTERRUPT, made.interrupt)
    made.open()
    yield made
    made.close()
    signal.signal(INTERRUPT, handler)


def connected(opened: SessionSocket) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    with socket_path(opened._folder) as path:
        made.connect(path)
    made.settimeout(20)
    return made


def send(to: socket.socket, frame: Frame) -> None:
    for part in frame.encoded():
        to.sendall(part)


def soon() -> float:
    return time.monotonic() + 20


def test_requests_are_received_and_answered(opened: SessionSocket) -> None:
    async def ask() -> tuple[Frame, Frame]:
        link = await SessionClient.open(opened._folder)
        assert [spec.name for spec in link.inputs] == ["x"]
        await link.send(LARGE)
        taken: list[int] = []
        reply = await link.receive(taken.append)
        assert taken == [len(LARGE.payload)]
        link.close()
        return link.ready, reply

    got: list[tuple[Frame, Frame]] = []
    client = threading.Thread(target=lambda: got.append(asyncio.run(ask())))
    client.start()
    assert opened.receive(soon()) == Frame({"kind": "attach"}, [])
    ready = Frame({"step": 3, "inputs": [["x", "float32", [None, 2]]], "outputs": []}, [])
    opened.reply(ready)
    assert opened.receive(soon()) == Frame({"kind": "step"}, [], LARGE.payload)
    opened.reply(LARGE)
    client.join()
    assert got == [(ready, Frame({"kind": "step"}, [], LARGE.payload))]
    assert opened.receive(time.monotonic() + 0.01) is None
    opened.reply(LARGE)  # to nobody


def test_a_new_connection_takes_the_place_of_the_old_one(opened: SessionSocket) -> None:
    with connected(opened) as first:
        send(first, Frame({"number": 1}))
        assert opened.receive(soon()) == Frame({"number": 1}, [])
        second = connected(opened)
        send(second, Frame({"number": 2}))
        assert opened.receive(soon()) == Frame({"number": 2}, [])
        assert first.recv(1) == b""
    second.close()


def test_what_is_no_frame_ends_the_connection(opened: SessionSocket) -> None:
    for wrong in (b"\xff" * 100, b"".join(LARGE.encoded())[:-1] + b"x"):
        with connected(opened) as other:
            sender = threading.Thread(target=other.sendall, args=(wrong,))
            sender.start()
            assert opened.receive(time.monotonic() + 0.3) is None
            sender.join()
    with connected(opened) as cut:
        cut.sendall(b"".join(LARGE.encoded())[:50])
    assert opened.receive(time.monotonic() + 0.1) is None


def test_a_client_that_stops_in_a_request_holds_nothing_for_ever(
    opened: SessionSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_socket, "STALLED_SECONDS", 0.05)
    with connected(opened) as slow:
        slow.sendall(b"".join(LARGE.encoded())[:50])
        assert opened.receive(time.monotonic() + 0.1) is None
        assert slow.recv(1) == b""
    with connected(opened) as deaf:
        send(deaf, Frame({"number": 1}))
        assert opened.receive(soon()) is not None
        opened.reply(LARGE)
        assert opened._connection is None


@pytest.mark.parametrize("waiting", [True, False])
def test_a_signal_ends_the_wait(opened: SessionSocket, waiting: bool) -> None:
    timer = threading.Timer(0.1 if waiting else 0.0, os.kill, (os.getpid(), INTERRUPT))
    timer.start()
    if not waiting:
        timer.join()
    began = time.monotonic()
    with pytest.raises(Interruption):
        opened.receive(soon())
    assert time.monotonic() - began < 10


def test_a_process_that_is_gone_has_no_link(tmp_path: Path) -> None:
    with pytest.raises(SessionClosedError):
        asyncio.run(SessionClient.open(tmp_path))

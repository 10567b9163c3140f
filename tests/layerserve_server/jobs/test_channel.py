"""What both ends of a channel say: whole messages or errors, whatever the other end sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from layerserve_server.errors import CallCancelledError
from layerserve_server.jobs import channel
from layerserve_server.jobs.channel import Channel, JobDiedError


@pytest.fixture(name="ends")
def _ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(30.0)
        yield Channel(ours), theirs


def test_messages_and_bytes_follow_one_another(ends: tuple[Channel, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(b'{"a": 1}\n{"size": 6}\n012')
    assert ours.receive() == {"a": 1}
    assert ours.receive() == {"size": 6}
    theirs.sendall(b'345{"b": 2}\n')
    assert ours.read(6) == b"012345"
    assert ours.receive() == {"b": 2}
    theirs.sendall(b"01")
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(ConnectionError):
        ours.read(3)


@pytest.mark.parametrize(("length", "fits"), [(20, True), (21, False)])
def test_a_message_may_be_as_long_as_the_limit(
    ends: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch, length: int, fits: bool
) -> None:
    monkeypatch.setattr(channel, "MAX_MESSAGE", 20)
    ours, theirs = ends
    theirs.sendall(b'{"a": "' + b"x" * (length - 9) + b'"}\n')
    if fits:
        assert len(ours.receive()["a"]) == 11
        return
    with pytest.raises(ConnectionError, match="too long"):
        ours.receive()


@pytest.mark.parametrize(
    ("message", "signal", "late"),
    [
        (b'{"died": 9, "late": false}', 9, False),
        (b'{"died": 24, "late": false}', 24, True),
        (b'{"died": 0, "late": true}', 0, True),
    ],
)
def test_a_death_is_an_error(ends: tuple[Channel, socket.socket], message: bytes, signal: int, late: bool) -> None:
    ours, theirs = ends
    theirs.sendall(message + b"\n")
    with pytest.raises(JobDiedError) as caught:
        ours.receive()
    assert (caught.value.signal, caught.value.late) == (signal, late)


@pytest.mark.parametrize("number", ["[]", "{}", "null", '"9"', "1000", "-1", "9.5"])
def test_a_death_by_what_is_no_signal_is_no_message(ends: tuple[Channel, socket.socket], number: str) -> None:
    ours, theirs = ends
    theirs.sendall(b'{"died": %s, "late": false}\n' % number.encode())
    with pytest.raises(ConnectionError, match="makes no sense"):
        ours.receive()


def test_nobody_waits_for_ever(ends: tuple[Channel, socket.socket]) -> None:
    ours, _ = ends
    answers = iter([False, True])
    with pytest.raises(CallCancelledError):
        ours.receive(lambda: next(answers))
    ours.socket.settimeout(0.01)
    for gone in (channel.never, lambda: False):
        with pytest.raises(TimeoutError):
            ours.receive(gone)

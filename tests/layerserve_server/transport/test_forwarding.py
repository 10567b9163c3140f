"""Calls that a worker forwards: which metadata goes with them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from layerserve_server.access.gate import CERTIFICATE_KEY, Gate
from layerserve_server.access.group import ProcessGroup
from layerserve_server.transport import forwarding
from layerserve_server.transport.client_address import PEER_KEY, host_of
from layerserve_server.transport.forwarding import CallForwarder, Forwarder, _may_be_sent


@pytest.mark.parametrize(
    ("key", "value", "sent"),
    [
        ("a-b_c.1", "text ~", True),
        ("a", "", True),
        ("A", "text", False),
        ("a b", "text", False),
        ("", "text", False),
        ("a", "\x7f", False),
        ("a", "line\n", False),
        ("a", b"bytes", False),
        ("a-bin", b"\0\xff", True),
    ],
)
def test_only_what_grpcio_can_send_is_forwarded(key: str, value: str | bytes, sent: bool) -> None:
    assert _may_be_sent(key, value) is sent


class Forwarded:
    """A call of the other server, which ends at once."""

    def __init__(self, method: str) -> None:
        self.method, self.metadata, self.cancelled = method, (), False

    def __call__(self, timeout: float | None, metadata: Any) -> Forwarded:
        self.metadata = metadata
        return self

    async def read(self) -> object:
        return grpc.aio.EOF

    async def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.OK

    async def done_writing(self) -> None:
        pass

    def cancel(self) -> None:
        self.cancelled = True


PEER = "ipv4:192.0.2.7:4000"


def forwarded(gate: Gate, metadata: list[tuple[str, str | bytes]], names: list[str]) -> tuple[Any, Any]:
    """The metadata with which a client's call is forwarded, and the channel on which it was."""
    made: list[Forwarded] = []

    def stream_stream(method: str) -> Forwarded:
        made.append(Forwarded(method))
        return made[-1]

    async def no_requests() -> Any:
        return
        yield b""

    stream: Any = SimpleNamespace(
        method="/a/B",
        metadata=metadata,
        deadline=None,
        client=lambda: PEER,
        certificate_names=lambda: names,
        on_closed=lambda callback: None,
        requests=no_requests,
    )
    channel: Any = SimpleNamespace(grpc=SimpleNamespace(stream_stream=stream_stream), calls=0)

    async def forward() -> None:
        forwarder = Forwarder(Path("socket"), gate, 1)
        forwarder._channels.append(channel)
        assert [message async for message in forwarder.forward(stream)] == []

    asyncio.run(forward())
    return made[0].metadata, channel


def test_what_a_client_says_of_its_address_and_certificate_is_left_out() -> None:
    """The other server believes what comes through its Unix socket."""
    group = ProcessGroup()
    worker, owner = (Gate(certificates=True, group=group) for _ in range(2))
    claims: list[tuple[str, str | bytes]] = [
        (PEER_KEY, "10.9.9.9"),
        (CERTIFICATE_KEY, group.secret + b'["boss"]'),
        ("user-agent", "x"),
        ("te", "trailers"),
    ]
    kept: list[tuple[str, str | bytes]] = [("authorization", "Bearer some"), ("x-request-id", "7")]
    for names in ([], ["shop"]):
        sent, channel = forwarded(worker, [*claims, *kept, *claims], names)
        assert list(sent) == [*kept, (PEER_KEY, PEER), *worker.stamped(names)]
        assert host_of("unix:", sent) == "192.0.2.7"
        arrival: Any = SimpleNamespace(method="/a/B", metadata=sent, certificate_names=tuple)
        assert owner._forwarded(dict(arrival.metadata).get(CERTIFICATE_KEY)) == (names or ())
        # Others may be sent on its connection again.
        assert channel.calls == 0


def test_a_connection_has_half_of_the_calls_that_the_other_server_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It counts an ended call a moment longer."""
    monkeypatch.setattr(forwarding, "_Channel", lambda target: SimpleNamespace(calls=0))
    forwarder = Forwarder(Path("socket"), Gate(), 5)
    first = forwarder._free_channel()
    first.calls = 1
    assert forwarder._free_channel() is first
    first.calls = 2
    second = forwarder._free_channel()
    assert second is not first
    first.calls = 1
    assert forwarder._free_channel() is first


def test_a_call_whose_client_leaves_is_cancelled_at_the_other_server() -> None:
    cancelled: list[bool] = []
    made = SimpleNamespace(add_done_callback=lambda done: None, cancel=lambda: cancelled.append(True))
    forwarder = CallForwarder(Path("socket"), Gate())
    forwarder.close()
    future: Any = SimpleNamespace(future=lambda message, **options: made)
    forwarder._channel = SimpleNamespace(unary_unary=lambda method: future)
    leaves: list[Any] = []
    call: Any = SimpleNamespace(method="/a/B", metadata=(), deadline=None, on_gone=leaves.append)
    call.client, call.certificate_names = str, tuple
    forwarder.forward(call, b"", lambda reply: reply)
    assert not cancelled
    leaves[0]()
    assert cancelled

"""Forwards calls of any method to another server on the same machine, as serialized messages."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from layerserve_server.access.gate import CERTIFICATE_KEY, Gate
from layerserve_server.errors import STOPPING, UnavailableError
from layerserve_server.transport.call import Call, Stream
from layerserve_server.transport.client_address import PEER_KEY, peer_of
from layerserve_server.transport.status import Failure, StatusError

_Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

#: Metadata of a connection, or written by grpcio itself; not forwarded.
OWN_KEYS = ("user-agent", "content-type", "te", PEER_KEY, CERTIFICATE_KEY)

#: Keys of metadata, and values of those that don't end in "-bin", as gRPC's specification has them.
_KEY = re.compile(r"[0-9a-z_.-]+")
_VALUE = re.compile(r"[ -~]*")


class _Channel:
    """A channel to the other server, with the number of its open calls."""

    def __init__(self, target: str) -> None:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Otherwise all channels to one address share a connection.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.grpc = grpc.aio.insecure_channel(target, options=options)
        self.calls = 0


class Forwarder:
    """Forwards calls to another server. On the wire a unary call is a stream of one message: all are streams here."""

    def __init__(self, socket: Path, gate: Gate, max_connection_calls: int) -> None:
        """`socket` is the Unix socket on which the other server listens, `gate` one with the secret of both.

        `max_connection_calls` is the maximum number of open calls per connection there. A connection from here has half
        as many.
        """
        self._gate = gate
        self._target = f"unix:{socket}"
        # The server there counts an ended call a moment longer than this one, and refuses calls above its limit.
        self._max_calls = max(1, max_connection_calls // 2)
        self._channels: list[_Channel] = []

    async def forward(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Yields the other server's replies to a stream (a transport.call.StreamHandler).

        Raises StatusError with the other server's error, UnavailableError if this server stops, and the errors of
        `stream.requests`.
        """
        channel = self._free_channel()
        pairs = [pair for pair in stream.metadata if pair[0] not in OWN_KEYS and _may_be_sent(*pair)]
        call: _Call = channel.grpc.stream_stream(stream.method)(
            timeout=None if stream.deadline is None else max(0.0, stream.deadline - time.monotonic()),
            metadata=(
                *pairs,
                (PEER_KEY, peer_of(str(stream.client()), ())),
                *self._gate.stamped(stream.certificate_names()),
            ),
        )

        def cancel() -> None:
            # Where this server stops, the other one ends the call, in its time.
            if not stream.listens():
                call.cancel()

        channel.calls += 1
        stream.on_closed(cancel)
        #: Errors of the client's messages.
        failures: list[Exception] = []
        sending = asyncio.ensure_future(_send(stream, call, failures))
        try:
            while isinstance(message := await call.read(), bytes):
                yield message
            code = await call.code()
        except grpc.aio.AioRpcError as error:
            code = error.code()
        except asyncio.CancelledError:
            if not failures:
                raise UnavailableError(STOPPING) from None
            code = grpc.StatusCode.CANCELLED
        finally:
            channel.calls -= 1
            sending.cancel()
            call.cancel()
        if failures:
            raise failures[0]
        if code is not grpc.StatusCode.OK:
            metadata = tuple(await call.trailing_metadata() or ())
            raise StatusError(Failure(code, await call.details() or "", metadata))

    async def close(self) -> None:
        """Closes the channels, and with them all calls in progress."""
        for channel in self._channels:
            await channel.grpc.close()

    def _free_channel(self) -> _Channel:
        """Returns the first channel on which a further call needn't wait for others; a new one if there is none."""
        for channel in self._channels:
            if channel.calls < self._max_calls:
                return channel
        # Made here, since a channel belongs to the event loop in which it is made.
        self._channels.append(_Channel(self._target))
        return self._channels[-1]


class CallForwarder:
    """Forwards unary calls of any method to another server. Thread-safe."""

    def __init__(self, socket: Path, gate: Gate) -> None:
        """See Forwarder. Connects on the first call."""
        self._gate = gate
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        # Sent once: the other server may have begun what it doesn't answer.
        options += [("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.insecure_channel(f"unix:{socket}", options=options)

    def forward(self, call: Call, message: bytes, reply: Callable[[bytes], bytes]) -> None:
        """Has the other server answer a call by a message, and count it. Never blocks.

        `reply` makes the call's reply of the other server's, and raises as a handler does.
        """
        call.forwarded = True
        pairs = [pair for pair in call.metadata if pair[0] not in OWN_KEYS and _may_be_sent(*pair)]
        method: Any = self._channel.unary_unary(call.method)
        made: Any = method.future(
            message,
            timeout=None if call.deadline is None else max(0.0, call.deadline - time.monotonic()),
            metadata=(
                *pairs,
                (PEER_KEY, peer_of(str(call.client()), ())),
                *self._gate.stamped(call.certificate_names()),
            ),
        )
        made.add_done_callback(partial(_pass_on, call, reply))
        call.on_gone(lambda: made.cancel())

    def close(self) -> None:
        """Closes the connection, and with it all calls in progress."""
        self._channel.close()


def _pass_on(call: Call, reply: Callable[[bytes], bytes], made: Any) -> None:
    """Answers a call with the reply to, or the error of, the one that was made for it."""
    code = made.code()
    if code is grpc.StatusCode.OK:
        try:
            call.answer(reply(made.result()))
        except Exception as error:
            call.fail(error)
    else:
        metadata = tuple((pair[0], pair[1]) for pair in made.trailing_metadata() or ())
        call.fail(StatusError(Failure(code, made.details() or "", metadata)))


def _may_be_sent(key: str, value: str | bytes) -> bool:
    """Whether grpcio sends this metadata. It receives more, but then ends a call that has it with INTERNAL."""
    if not _KEY.fullmatch(key):
        return False
    return key.endswith("-bin") or (isinstance(value, str) and _VALUE.fullmatch(value) is not None)


async def _send(stream: Stream, call: _Call, failures: list[Exception]) -> None:
    """Forwards the client's messages. On an error, appends it to `failures` and cancels the call."""
    try:
        async for message in stream.requests():
            await _write(call, message)
        await call.done_writing()
    except asyncio.InvalidStateError:
        pass  # the other server has ended the call
    except grpc.aio.AioRpcError:
        pass
    except Exception as error:
        failures.append(error)
        call.cancel()


async def _write(call: _Call, message: bytes) -> None:
    """Like `call.write`, which turns the status of a call that has just ended into INTERNAL.

    Uses a private name of grpcio. Raises asyncio.InvalidStateError if the call has ended, as `call.write` does.
    """
    core: Any = getattr(call, "_cython_call", None)
    if core is None:
        await call.write(message)
        return
    await call.wait_for_connection()
    try:
        await core.send_serialized_message(message)
    except cygrpc.InternalError as error:
        raise asyncio.InvalidStateError("the call has ended") from error

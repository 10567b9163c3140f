"""Hands calls on to another server on the same machine, as bytes, whatever their methods are."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from layerserve_server.errors import STOPPING, UnavailableError
from layerserve_server.transport.call import Stream
from layerserve_server.transport.peers import PEER_KEY, host_of
from layerserve_server.transport.status import Failure, StatusError

_Call: TypeAlias = "grpc.aio.StreamStreamCall[bytes, bytes]"

#: Metadata that belongs to a connection, or that grpcio writes itself.
OWN_KEYS = ("user-agent", "content-type", "te", PEER_KEY)


class Forwarder:
    """The way to another server. A unary call is a stream of one message on the wire, so all are streams here."""

    def __init__(self, socket: Path) -> None:
        """`socket` is where the other server listens."""
        self._target = f"unix:{socket}"
        self._channel: grpc.aio.Channel | None = None

    async def forward(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """The other server's answers to a stream (a transport.call.StreamHandler)."""
        if self._channel is None:  # here, as a channel belongs to the loop in which it is made
            self._channel = grpc.aio.insecure_channel(
                self._target,
                options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)],
            )
        pairs = [pair for pair in stream.metadata if pair[0] not in OWN_KEYS]
        call: _Call = self._channel.stream_stream(stream.method)(
            timeout=None if stream.deadline is None else max(0.0, stream.deadline - time.monotonic()),
            metadata=(*pairs, (PEER_KEY, host_of(str(stream.client())))),
        )

        def cancel() -> None:
            call.cancel()

        stream.on_closed(cancel)
        #: What was wrong with the caller's messages.
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
            sending.cancel()
            call.cancel()
        if failures:
            raise failures[0]
        if code is not grpc.StatusCode.OK:
            metadata = tuple(await call.trailing_metadata() or ())
            raise StatusError(Failure(code, await call.details() or "", metadata))

    async def close(self) -> None:
        """Ends all calls under way."""
        if self._channel is not None:
            await self._channel.close()


async def _send(stream: Stream, call: _Call, failures: list[Exception]) -> None:
    """Passes on the caller's messages; ends the call where they don't come, with what is wrong in `failures`."""
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
    """As `call.write`, which turns the status of a call that has just ended into INTERNAL.

    Takes a name that grpcio doesn't publish. Raises as `call.write` for a call that has ended.
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

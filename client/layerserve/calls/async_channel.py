"""The asyncio channel of `AsyncClient`. Counterpart of the blocking one in `channel`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import grpc.aio

from layerserve.calls.channel import multicallable
from layerserve.calls.connection import Connection, Deadline
from layerserve.calls.methods import Message, Method
from layerserve.calls.retries import Retries
from layerserve.calls.rpc_errors import rpc_error
from layerserve.calls.tokens import Metadata, Tail, TokenFunction
from layerserve.calls.tracing import trace_metadata
from layerserve.errors import Cancelled, LayerserveError, Unavailable

T = TypeVar("T")


class AsyncChannel:
    """A gRPC channel that tasks of one event loop may share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token = connection.token
        self._retries = Retries(connection.retries)
        self._channel: grpc.aio.Channel | None = None
        self._calls: dict[tuple[str, bool], Callable[..., Any]] = {}

    async def call(
        self,
        method: Method[Any, Any],
        request: Any,
        deadline: Deadline,
        metadata: Metadata = (),
        *,
        raw: bool = False,
        tail: Tail | None = None,
    ) -> Any:
        """Calls a unary RPC and returns its reply; with `raw` the request is serialized bytes.

        The trailing metadata of the reply are added to `tail`.
        """
        send = self._callable(method, raw)
        attempt = 1
        while True:
            sent = (*(await self._metadata()), *trace_metadata(), *metadata)
            try:
                begun = send(request, timeout=deadline.remaining(), metadata=sent)
                reply = await begun
                if tail is not None:
                    tail.update(await begun.trailing_metadata())
            except grpc.RpcError as error:
                pause = self._retries.pause(error, method, attempt, deadline)
                if pause is None:
                    raise
            else:
                self._retries.succeeded()
                return reply
            await self.pause(pause)
            attempt += 1

    async def open(
        self,
        method: Method[Any, Any],
        requests: Message | Iterable[Message],
        deadline: Deadline,
        metadata: Metadata = (),
    ) -> Any:
        """Opens a stream, to be passed to `receive`."""
        sent = (*(await self._metadata()), *trace_metadata(), *metadata)
        return self._callable(method, raw=False)(requests, timeout=deadline.remaining(), metadata=sent)

    async def receive(self, stream: Any, deadline: Deadline) -> Any:
        """Returns the next message of a stream; None at its end. Cancels the stream at the deadline."""
        seconds = deadline.remaining()
        if stream.cancelled():
            # With its last reader, such as one in `asyncio.wait_for`. grpc.aio would cancel the next one's task, too.
            raise Cancelled("the stream was cancelled with an earlier reader")
        try:
            message = await (stream.read() if seconds is None else asyncio.wait_for(stream.read(), seconds))
        except asyncio.TimeoutError:
            stream.cancel()
            raise deadline.exceeded() from None
        except grpc.aio.AioRpcError as error:
            if error.details() != "Internal error from Core":
                raise
            # grpc.aio's error if the call ended while a request was being written, in place of the server's status.
            raise Unavailable("the stream ended while data was being sent") from None
        return None if message is grpc.aio.EOF else message

    async def translated(self, error: grpc.RpcError) -> LayerserveError:
        """Returns the client's error for one of gRPC."""
        if error.code() is not grpc.StatusCode.UNAVAILABLE:
            return rpc_error(error, self._connection)
        return await asyncio.to_thread(rpc_error, error, self._connection)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def work(self, function: Callable[[], T]) -> T:
        """Runs a function that may block on a disk and returns its result."""
        return await asyncio.to_thread(function)

    def lock(self) -> asyncio.Lock:
        """Returns a lock of tasks."""
        return asyncio.Lock()

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()

    async def _metadata(self) -> Metadata:
        if isinstance(self._token, TokenFunction):
            return await self._token.fetch()
        return self._token.metadata()

    def _callable(self, method: Method[Any, Any], raw: bool) -> Callable[..., Any]:
        made = self._calls.get((method.path, raw))
        if made is None:
            if self._channel is None:
                # On the first call, since a channel belongs to the event loop in which it is made.
                self._channel = self._connection.open(grpc.aio)
            made = self._calls[method.path, raw] = multicallable(self._channel, method, raw)
        return made

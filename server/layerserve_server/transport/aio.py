"""Handlers on grpc.aio's public API, for grpcio releases whose private names `completion_queue` doesn't support."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import grpc

from layerserve_server.access.gate import Pairs
from layerserve_server.errors import UnknownMethodError
from layerserve_server.transport.call import UNKNOWN_METHOD, Handler, Routes, StreamHandler
from layerserve_server.transport.certificates import names_in
from layerserve_server.transport.event_batch import BatchedCall, EventBatches, deadline_in
from layerserve_server.transport.peers import host_of
from layerserve_server.transport.request_ids import echo
from layerserve_server.transport.status import Failure
from layerserve_server.transport.streams import ServerStream, Streams


class AioHandlers(grpc.GenericRpcHandler):
    """Generic handler for all methods, for a grpc.aio server in the event loop of the streams."""

    def __init__(
        self,
        routes: Routes,
        batches: EventBatches,
        streams: Streams,
        fallback: StreamHandler | None = None,
        read_metadata: Callable[[Any], Pairs] = tuple,
    ) -> None:
        """`fallback` handles methods that aren't in `routes`; without it they end with UNIMPLEMENTED.

        `read_metadata` returns what counts of a call's metadata.
        """
        self._routes = routes
        self._batches = batches
        self._streams = streams
        self._fallback = fallback
        self._read_metadata = read_metadata

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any]:
        """Returns the handler of a method."""
        method = handler_call_details.method
        if (unary := self._routes.unary.get(method)) is not None:
            return grpc.unary_unary_rpc_method_handler(partial(self._answer_unary, method, unary))
        if (handler := self._routes.streams.get(method)) is not None:
            answer = partial(self._answer_stream, method, handler, True)
        elif self._fallback is not None:
            answer = partial(self._answer_stream, method, self._fallback, False)
        else:
            answer = partial(self._answer_stream, UNKNOWN_METHOD, _unknown(method), True)
        return grpc.stream_stream_rpc_method_handler(answer)

    async def _answer_unary(self, method: str, handler: Handler, request: bytes, context: Any) -> bytes:
        metadata = self._read_metadata(context.invocation_metadata() or ())
        call = AioCall(self._batches, method, request, context, metadata, self._streams)
        self._batches.begin(call)
        self._batches.take(call, lambda _: self._batches.work(call, handler, lists=method in self._routes.lists))
        self._batches.finish()
        try:
            reply = await call.reply_or_failure
        except asyncio.CancelledError:
            call.gone()
            raise
        finally:
            call.drop()
        if isinstance(reply, Failure):
            await context.abort(reply.code, reply.text, reply.metadata)
            raise AssertionError("abort raises")
        context.set_trailing_metadata(echo(call.metadata))
        return reply

    async def _answer_stream(self, method: str, handler: StreamHandler, counted: bool, _: Any, context: Any) -> None:
        stream = AioStream(self._streams, method, context, self._read_metadata(context.invocation_metadata() or ()))
        stream.counted = counted
        task = self._streams.begin(stream, handler)
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            stream.gone()
            raise
        if stream.failure is not None:
            await context.abort(stream.failure.code, stream.failure.text, stream.failure.metadata)
        context.set_trailing_metadata(echo(stream.metadata))


def _unknown(method: str) -> StreamHandler:
    async def answer(stream: Any) -> Any:
        raise UnknownMethodError(f"method '{method}' doesn't exist on this server")
        yield b""  # makes this an async generator

    return answer


def _deadline(context: Any) -> float | None:
    return deadline_in(context.time_remaining(), time.monotonic())


class AioCall(BatchedCall):
    """A unary call of a grpc.aio server. Its coroutine awaits `reply_or_failure`."""

    __slots__ = ("_context", "_streams", "metadata", "reply_or_failure")

    def __init__(
        self, batches: EventBatches, method: str, request: bytes, context: Any, metadata: Pairs, streams: Streams
    ) -> None:
        super().__init__(batches, method, request, time.monotonic(), _deadline(context))
        self._context = context
        self._streams = streams
        self.metadata: Pairs = metadata
        self.reply_or_failure: asyncio.Future[bytes | Failure] = streams.loop.create_future()

    def client(self) -> object:
        return self._context.peer()

    def certificate_names(self) -> Sequence[str]:
        return names_in(self._context.auth_context())

    def send(self, message: bytes) -> None:
        self._end_with(message)

    def send_failure(self, wire: Failure) -> None:
        self._end_with(wire)

    def _end_with(self, reply: bytes | Failure) -> None:
        def end() -> None:
            if not self.reply_or_failure.done():
                self.reply_or_failure.set_result(reply)

        self._streams.post(end)


class AioStream(ServerStream):
    """A streaming call of a grpc.aio server."""

    def __init__(self, streams: Streams, method: str, context: Any, metadata: Pairs) -> None:
        super().__init__(streams, method, host_of(context.peer(), metadata), _deadline(context), metadata)
        self._context = context
        #: The error that ended the stream; None if it ended with OK.
        self.failure: Failure | None = None

    def client(self) -> object:
        return self._context.peer()

    def certificate_names(self) -> Sequence[str]:
        return names_in(self._context.auth_context())

    def receive_one(self) -> None:
        self._run(self._context.read(), lambda message: self.received(None if message is grpc.aio.EOF else message))

    def send_one(self, message: bytes) -> None:
        self._run(self._context.write(message), lambda _: self.sent())

    def end(self, wire: Failure | None) -> None:
        self.failure = wire

    def cancel(self) -> None:
        self.gone()

    def _run(self, work: Any, then: Callable[[Any], None]) -> None:
        def done(task: asyncio.Future[Any]) -> None:
            if not task.cancelled() and task.exception() is None:
                then(task.result())

        asyncio.ensure_future(work).add_done_callback(done)

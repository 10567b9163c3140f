"""The blocking channel of `Client`. Counterpart of the asyncio one in `async_channel`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import grpc

from layerserve.calls.connection import Connection, Deadline
from layerserve.calls.methods import Message, Method
from layerserve.calls.retries import Retries
from layerserve.calls.rpc_errors import rpc_error
from layerserve.calls.tokens import Metadata, Tail
from layerserve.calls.tracing import trace_metadata
from layerserve.errors import LayerserveError

T = TypeVar("T")


class Channel:
    """A gRPC channel that threads may share."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._token = connection.token
        self._retries = Retries(connection.retries)
        self._channel: grpc.Channel = connection.open(grpc)
        self._calls: dict[tuple[str, bool], Callable[..., Any]] = {}

    def call(
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
            sent = (*self._token.metadata(), *trace_metadata(), *metadata)
            try:
                if tail is None:
                    reply = send(request, timeout=deadline.remaining(), metadata=sent)
                else:
                    reply, ended = send.with_call(request, timeout=deadline.remaining(), metadata=sent)  # type: ignore[attr-defined]
                    tail.update(ended.trailing_metadata())
            except grpc.RpcError as error:
                pause = self._retries.pause(error, method, attempt, deadline)
                if pause is None:
                    raise
            else:
                self._retries.succeeded()
                return reply
            self.pause(pause)
            attempt += 1

    def open(
        self,
        method: Method[Any, Any],
        requests: Message | Iterable[Message],
        deadline: Deadline,
        metadata: Metadata = (),
    ) -> Any:
        """Opens a stream, to be passed to `receive`."""
        messages = iter(requests) if method.streams_requests else requests  # type: ignore[arg-type]
        sent = (*self._token.metadata(), *trace_metadata(), *metadata)
        return self._callable(method, raw=False)(messages, timeout=deadline.remaining(), metadata=sent)

    def receive(self, stream: Any, deadline: Deadline) -> Any:
        """Returns the next message of a stream; None at its end. Cancels the stream at the deadline."""
        seconds = deadline.remaining()
        if seconds is None:
            return next(stream, None)
        timer = threading.Timer(seconds, stream.cancel)
        timer.daemon = True
        timer.start()
        try:
            return next(stream, None)
        except grpc.RpcError:
            deadline.remaining()  # raises if that is why the stream was cancelled
            raise
        finally:
            timer.cancel()

    def translated(self, error: grpc.RpcError) -> LayerserveError:
        """Returns the client's error for one of gRPC."""
        return rpc_error(error, self._connection)

    def pause(self, seconds: float) -> None:
        time.sleep(seconds)

    def work(self, function: Callable[[], T]) -> T:
        """Runs a function that may block on a disk and returns its result."""
        return function()

    def lock(self) -> threading.Lock:
        """Returns a lock of threads."""
        return threading.Lock()

    def close(self) -> None:
        self._channel.close()

    def _callable(self, method: Method[Any, Any], raw: bool) -> Callable[..., Any]:
        made = self._calls.get((method.path, raw))
        if made is None:
            made = self._calls[method.path, raw] = multicallable(self._channel, method, raw)
        return made


def multicallable(channel: Any, method: Method[Any, Any], raw: bool) -> Callable[..., Any]:
    """Makes a channel's callable for an RPC, blocking or asyncio; with `raw`, requests are serialized bytes."""
    kind = ("stream" if method.streams_requests else "unary") + "_"
    kind += "stream" if method.streams_replies else "unary"
    made: Callable[..., Any] = getattr(channel, kind)(
        method.path,
        request_serializer=None if raw else method.request.SerializeToString,
        response_deserializer=method.reply.FromString,
    )
    return made

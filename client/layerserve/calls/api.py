"""What runs flows on a connection: the base of the asyncio client."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Any, TypeVar

import grpc

from layerserve.calls.async_channel import AsyncChannel
from layerserve.calls.async_routed_channel import AsyncRoutedChannel
from layerserve.calls.connection import NEVER, Connection, Deadline
from layerserve.calls.flow import Call, Flow, Open, Pause, Receive, Renew, Step, Stream, Work
from layerserve.calls.methods import Message, Method
from layerserve.calls.tokens import Metadata
from layerserve.errors import ClientClosed

T = TypeVar("T")
R = TypeVar("R", bound=Message)

_log = logging.getLogger("layerserve")


class AsyncRunner:
    """A connection, and the flows that it runs."""

    def __init__(self, address: str, timeout: float, opened: Connection) -> None:
        Deadline(timeout)  # raises for an invalid timeout now, not at the first call
        self.address = address
        self.timeout = timeout
        self._channel = AsyncRoutedChannel(opened) if opened.route_by_model else AsyncChannel(opened)
        self._closed = False

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection. Open calls end with an error; training runs continue on the server."""
        self._closed = True
        await self._channel.close()

    async def _run(self, flow: Flow[T], timeout: float | None = None, *, keeps_stream: bool = False) -> T:
        """Run a flow to its end. The client's timeout holds for calls, one given here for streams, too.

        With `keeps_stream`, the stream that the flow opens is still read after it, without this timeout.
        """
        deadline = Deadline(self.timeout if timeout is None else timeout)
        streams = NEVER if timeout is None else deadline
        answer: Any = None
        error: Exception | None = None
        try:
            while True:
                try:
                    step = flow.send(answer) if error is None else flow.throw(error)
                except StopIteration as stop:
                    result: T = stop.value
                    return result
                answer = error = None
                if isinstance(step, Renew):
                    deadline = deadline if timeout is not None else Deadline(self.timeout)
                    continue
                try:
                    if isinstance(step, Call):
                        answer = await self._perform(step, deadline)
                    else:
                        keeps = keeps_stream and isinstance(step, Open)
                        answer = await self._perform(step, NEVER if keeps else streams)
                except Exception as raised:
                    error = raised
        finally:
            flow.close()

    async def _perform(self, step: Step, deadline: Deadline) -> Any:
        """Perform a step of a flow. All RPCs except prepared predictions are made here."""
        if isinstance(step, Pause):
            return await self._channel.pause(deadline.limit(step.seconds))
        if isinstance(step, Work):
            return await self._channel.work(step.function)
        if self._closed:
            raise ClientClosed(f"client of {self.address} is closed")
        try:
            if isinstance(step, Call):
                return await self._channel.call(step.method, step.request, deadline, step.metadata, tail=step.tail)
            if isinstance(step, Open):
                return Stream(await self._channel.open(step.method, step.requests, deadline, step.metadata))
            if isinstance(step, Receive):
                return await self._channel.receive(step.stream.handle, deadline)
            return step.stream.handle.cancel()
        except grpc.RpcError as error:
            translated = await self._channel.translated(error)
            _log.debug("%s: %s: %s", type(step).__name__, translated.status.name, translated)
            raise translated from None

    async def _call_raw(self, method: Method[Any, R], request: bytes, timeout: float | None, metadata: Metadata) -> R:
        """Call a unary RPC with a serialized request."""
        if self._closed:
            raise ClientClosed(f"client of {self.address} is closed")
        deadline = Deadline(self.timeout if timeout is None else timeout)
        try:
            reply: R = await self._channel.call(method, request, deadline, metadata, raw=True)
            return reply
        except grpc.RpcError as error:
            translated = await self._channel.translated(error)
            raise translated from None

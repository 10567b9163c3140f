"""The channel of a client that routes by model: calls about a model go to the servers that have it in memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc

from layerserve.calls.async_channel import AsyncChannel
from layerserve.calls.connection import Connection, Deadline
from layerserve.calls.health_check import CHECK, HealthCheckRequest
from layerserve.calls.methods import Message, Method
from layerserve.calls.routing import ANSWER_SECONDS, LOST_SECONDS, MODEL_KEY, SILENT_SECONDS, Routes, Server
from layerserve.calls.rpc_errors import is_unsent
from layerserve.calls.server_addresses import ServerAddresses
from layerserve.calls.tokens import Metadata, Tail


class AsyncRoutedChannel(AsyncChannel):
    """A channel to each server, for calls that name a model, and one to any of them, for all others.

    If a server is gone, the one that is next for the model is asked at once. If none answers, the call is one to any
    server, which gRPC repeats.
    """

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._routes = Routes(ServerAddresses(connection.address), connection.route_by_model, self._connect)

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
        for server in await self._servers(metadata, deadline):
            if not await self._reached(server, deadline):
                continue
            server.count(1)
            try:
                return await server.channel.call(method, request, deadline, metadata, raw=raw, tail=tail)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                    server.failed(0.0)  # its host may be gone without a word: the next call finds out
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                server.failed(LOST_SECONDS)
                if not is_unsent(error) and not (method.repeatable and self._connection.retries):
                    raise
            finally:
                server.count(-1)
        return await super().call(method, request, deadline, metadata, raw=raw, tail=tail)

    async def open(
        self,
        method: Method[Any, Any],
        requests: Message | Iterable[Message],
        deadline: Deadline,
        metadata: Metadata = (),
    ) -> Any:
        """Opens a stream, to be passed to `receive`."""
        for server in await self._servers(metadata, deadline):
            # A stream can't be repeated, so it isn't begun on a server that has ended since its last call.
            if await self._reached(server, deadline) and await self._answers(server, deadline):
                return await server.channel.open(method, requests, deadline, metadata)
        return await super().open(method, requests, deadline, metadata)

    async def close(self) -> None:
        for channel in self._routes.channels():
            await channel.close()
        await super().close()

    def _connect(self, address: str) -> Server[AsyncChannel]:
        return Server(AsyncChannel(self._connection.to(address)), self.lock())

    async def _servers(self, metadata: Metadata, deadline: Deadline) -> list[Server[AsyncChannel]]:
        """Returns the servers to ask in their order; none for a call that names no model."""
        model = dict(metadata).get(MODEL_KEY)
        if model is None:
            return []
        if self._routes.addresses.pending():
            seconds = deadline.remaining()
            await self.work(lambda: self._routes.addresses.wait(seconds))
        return self._routes.order(model)

    async def _reached(self, server: Server[AsyncChannel], deadline: Deadline) -> bool:
        """Whether a server has answered. If it hasn't been asked yet, one call asks it, and others wait for that."""
        if server.answers:
            return True
        async with server.checking:
            return server.answers or (server.eligible and await self._answers(server, deadline))

    async def _answers(self, server: Server[AsyncChannel], deadline: Deadline) -> bool:
        """Whether a server answers a health check now."""
        seconds = min(deadline.remaining() or ANSWER_SECONDS, ANSWER_SECONDS)
        try:
            await server.channel.call(CHECK, HealthCheckRequest(), Deadline(seconds))
        except grpc.RpcError as error:
            # Any other error is an answer, such as that of a server without health checks.
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                server.failed(LOST_SECONDS)
                return False
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                server.failed(SILENT_SECONDS)
                return False
        server.answers = True
        return True

"""grpc.health.v1.Health, as handlers like any other: no lock is held while sending, and a watch holds no thread.

The protocol is https://github.com/grpc/grpc/blob/master/doc/health-checking.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from layerserve_server.errors import STOPPING, InvalidRequestError, NotFoundError, UnavailableError, safe_text
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "grpc.health.v1.Health"

_Status = health_pb2.HealthCheckResponse


class Health:
    """Whether each service is served, and those who watch it."""

    def __init__(self, services: Iterable[str]) -> None:
        #: One answer for all: they come and go together. The empty name is the server as a whole.
        self._services = {"", *services}
        self._serving = False
        self._watchers: set[Callable[[], None]] = set()

    def routes(self) -> Routes:
        """Its methods."""
        return Routes(
            unary={f"/{SERVICE}/Check": self.check},
            prompt={f"/{SERVICE}/Check"},
            server_streams={f"/{SERVICE}/Watch": self.watch},
        )

    def set(self, serving: bool) -> None:
        """Changes what is said from now on, also to watchers."""
        self._serving = serving
        for changed in tuple(self._watchers):
            changed()

    def check(self, call: Call) -> None:
        """Whether a service is served now."""
        status = self._status(_service(call.request))
        if status == _Status.SERVICE_UNKNOWN:
            raise NotFoundError(f"no service '{safe_text(_service(call.request), 80)}'")
        call.answer(_Status(status=status).SerializeToString())

    async def watch(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Whether a service is served, now and whenever it changes."""
        service = _service(await stream.first())
        news = asyncio.Event()

        def changed() -> None:
            stream.soon(news.set)

        self._watchers.add(changed)
        stream.on_closed(news.set)
        said = None
        try:
            while True:
                news.clear()
                status = self._status(service)
                if status != said:
                    said = status
                    yield _Status(status=status).SerializeToString()
                if not stream.open():
                    raise UnavailableError(STOPPING)
                await news.wait()
        finally:
            self._watchers.discard(changed)

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service not in self._services:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING


def _service(message: bytes) -> str:
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError as error:
        raise InvalidRequestError("the message is no HealthCheckRequest") from error
    return service

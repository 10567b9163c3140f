"""grpc.health.v1.Health as handlers: no lock is held while sending, and a watch occupies no thread.

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
    """Health status of the services, with notification of watchers."""

    def __init__(self, services: Iterable[str]) -> None:
        #: All services have the same status. The empty name is the server as a whole.
        self._services = {"", *services}
        self._serving = False
        self._watchers: set[Callable[[], None]] = set()

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={f"/{SERVICE}/Check": self.check},
            prompt={f"/{SERVICE}/Check"},
            server_streams={f"/{SERVICE}/Watch": self.watch},
        )

    def set(self, serving: bool) -> None:
        """Sets the status and notifies watchers."""
        self._serving = serving
        for changed in tuple(self._watchers):
            changed()

    def check(self, call: Call) -> None:
        """Handles Check: replies with a service's status. Raises NotFoundError if there is no such service."""
        status = self._status(_service(call.request))
        if status == _Status.SERVICE_UNKNOWN:
            raise NotFoundError(f"no service '{safe_text(_service(call.request), 80)}'")
        call.answer(_Status(status=status).SerializeToString())

    async def watch(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles Watch: yields a service's status, now and after each change. Raises UnavailableError at shutdown."""
        service = _service(await stream.first())
        wake = asyncio.Event()

        def changed() -> None:
            stream.soon(wake.set)

        self._watchers.add(changed)
        stream.on_closed(wake.set)
        sent = None
        try:
            while True:
                wake.clear()
                status = self._status(service)
                if status != sent:
                    sent = status
                    yield _Status(status=status).SerializeToString()
                if not stream.open():
                    raise UnavailableError(STOPPING)
                await wake.wait()
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
        raise InvalidRequestError("the message isn't a HealthCheckRequest") from error
    return service

"""grpc.health.v1.Health as handlers: no lock is held while sending, and a watch occupies no thread.

The protocol is https://github.com/grpc/grpc/blob/master/doc/health-checking.md. Besides the services, each model
has a status, under the name "layerserve.model/NAME": neither a service nor a model has a name with a slash.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from layerserve_server.access.caller import Caller
from layerserve_server.errors import STOPPING, InvalidRequestError, NotFoundError, UnavailableError, safe_text
from layerserve_server.transport.call import Call, Routes, Stream
from layerserve_server.transport.perimeter.limits import HEALTH_NAME_LENGTH

SERVICE = "grpc.health.v1.Health"
#: A model's status has this prefix and its name.
MODEL_PREFIX = "layerserve.model/"

_Status = health_pb2.HealthCheckResponse


class Health:
    """Health status of the services and models, with notification of watchers."""

    def __init__(self, services: Iterable[str], models: Callable[[str], bool | None] = lambda name: None) -> None:
        """`models` returns whether the model of this name answers requests; None if there is none."""
        self._models = models
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
        """Sets the status of the server and notifies watchers."""
        self._serving = serving
        self.changed()

    def changed(self) -> None:
        """Notifies watchers that the status of a model may have changed. Thread-safe; never blocks."""
        for changed in tuple(self._watchers):
            changed()

    def check(self, call: Call) -> None:
        """Handles Check: replies with a status. Raises NotFoundError if there is no such service or model."""
        service = _service(call.request)
        status = self._status(service, call.caller)
        if status == _Status.SERVICE_UNKNOWN:
            raise NotFoundError(f"no service '{safe_text(service, 80)}'")
        call.answer(_Status(status=status).SerializeToString())

    async def watch(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles Watch: yields a status, now and after each change. Raises UnavailableError at shutdown."""
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
                status = self._status(service, stream.caller)
                if status != sent:
                    sent = status
                    yield _Status(status=status).SerializeToString()
                if not stream.open():
                    raise UnavailableError(STOPPING)
                await wake.wait()
        finally:
            self._watchers.discard(changed)

    def _status(self, service: str, caller: Caller) -> health_pb2.HealthCheckResponse.ServingStatus:
        if service.startswith(MODEL_PREFIX):
            return self._model_status(service.removeprefix(MODEL_PREFIX), caller)
        if service not in self._services:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if self._serving else _Status.NOT_SERVING

    def _model_status(self, model: str, caller: Caller) -> health_pb2.HealthCheckResponse.ServingStatus:
        # A caller without any right on the model must not be able to find out whether it exists.
        if not caller.may("any", model):
            return _Status.SERVICE_UNKNOWN
        serving = self._models(model)
        if serving is None:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if serving and self._serving else _Status.NOT_SERVING


def _service(message: bytes) -> str:
    try:
        service: str = health_pb2.HealthCheckRequest.FromString(message).service
    except DecodeError as error:
        raise InvalidRequestError("the message isn't a HealthCheckRequest") from error
    if len(service) > HEALTH_NAME_LENGTH:
        raise InvalidRequestError(f"service: got {len(service)} characters, expected at most {HEALTH_NAME_LENGTH}")
    return service

"""gRPC server reflection, v1 and v1alpha: their wire formats are the same, and newer tools try v1 first."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from functools import cache
from typing import Any, TypeVar

from google.protobuf import descriptor_pool
from google.protobuf.message import DecodeError
from grpc_reflection.v1alpha import reflection, reflection_pb2

from layerserve_server.errors import InvalidRequestError
from layerserve_server.protocols.pool import POOL
from layerserve_server.transport.call import Routes, Stream

T = TypeVar("T")

SERVICES = ("grpc.reflection.v1.ServerReflection", reflection.SERVICE_NAME)


class Reflection:
    """Describes the services and their messages to clients."""

    def __init__(self, services: Callable[[], Iterable[str]]) -> None:
        """`services` returns the names of all services. Called with the first request: they aren't known before."""
        self._servicer = cache(lambda: reflection.ReflectionServicer(services(), Pools()))

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(both_streams={f"/{service}/ServerReflectionInfo": self.answer for service in SERVICES})

    async def answer(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles ServerReflectionInfo: yields a reply per request."""
        async for message in stream.requests():
            try:
                request = reflection_pb2.ServerReflectionRequest.FromString(message)
            except DecodeError as error:
                raise InvalidRequestError("the message isn't a ServerReflectionRequest") from error
            for response in self._servicer().ServerReflectionInfo(iter((request,)), None):
                yield response.SerializeToString()


class Pools:
    """What reflection needs of a descriptor pool: the private one of other protocols, then the default one."""

    def FindFileByName(self, name: str) -> Any:  # noqa: N802
        return _first(lambda pool: pool.FindFileByName(name))

    def FindFileContainingSymbol(self, name: str) -> Any:  # noqa: N802
        try:
            return _first(lambda pool: pool.FindFileContainingSymbol(name))
        except KeyError:
            # The pools don't know methods by their names, which tools ask for.
            service, _, method = name.rpartition(".")
            described = _first(lambda pool: pool.FindServiceByName(service))
            if method not in described.methods_by_name:
                raise
            return described.file

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802
        return _first(lambda pool: pool.FindMessageTypeByName(name))

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:  # noqa: N802
        return message.file.pool.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:  # noqa: N802
        return message.file.pool.FindAllExtensions(message)


def _first(find: Callable[[Any], T]) -> T:
    """Returns what is found first. Raises KeyError if no pool has it."""
    try:
        return find(POOL)
    except KeyError:
        return find(descriptor_pool.Default())

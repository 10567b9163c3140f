"""The RPCs of the contract, as proto/ describes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, Protocol, TypeVar

from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message_factory import GetMessageClass

from layerserve import v1


class Message(Protocol):
    """Interface of protobuf messages."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802
    def ByteSize(self) -> int: ...  # noqa: N802
    @staticmethod
    def FromString(s: bytes, /) -> Message: ...  # noqa: N802


Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


@dataclass(frozen=True)
class Method(Generic[Q, R]):
    """An RPC. `repeatable` means that it is unary, and may be sent again after a failure.

    It changes nothing, or is sent with an idempotency key.
    """

    service: str
    name: str
    request: type[Q]
    reply: type[R]
    streams_requests: bool = False
    streams_replies: bool = False
    repeatable: bool = False

    @property
    def path(self) -> str:
        return f"/{self.service}/{self.name}"


def _described() -> Iterator[Method[Any, Any]]:
    for module in iter_modules(v1.__path__, f"{v1.__name__}."):
        if module.name.endswith("_pb2"):
            for service in import_module(module.name).DESCRIPTOR.services_by_name.values():
                yield from map(_method, service.methods)


def _method(described: Any) -> Method[Any, Any]:
    streams = described.client_streaming, described.server_streaming
    safe = described.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    types = GetMessageClass(described.input_type), GetMessageClass(described.output_type)
    service = described.containing_service.full_name
    return Method(service, described.name, *types, *streams, repeatable=safe and not any(streams))


#: All RPCs by name.
METHODS: Mapping[str, Method[Any, Any]] = {method.name: method for method in _described()}
_OF_REQUESTS = {method.request: method for method in METHODS.values()}


def rpc(request: type[Q], reply: type[R]) -> Method[Q, R]:
    """Returns the RPC that has these types."""
    found = _OF_REQUESTS[request]
    assert found.reply is reply, f"{found.name}: got replies of type {reply.__name__}, expected {found.reply.__name__}"
    return found

"""Handlers of the methods that register regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from google.protobuf.message import Message

from layerserve_server.errors import ForbiddenError, UnknownMethodError
from layerserve_server.extensions.triton.shared_memory.connection_user import connection_user
from layerserve_server.extensions.triton.shared_memory.region_table import RegionTable
from layerserve_server.protocols.inference import inference_pb2 as pb
from layerserve_server.services.messages import parse
from layerserve_server.services.open_inference.inference import SERVICE
from layerserve_server.transport.call import Call, Handler, Routes
from layerserve_server.transport.client_address import endpoint, peer_of

#: What the names of the methods begin with.
METHOD = "SystemSharedMemory"


class SharedMemoryService:
    """Handlers of SystemSharedMemoryStatus, SystemSharedMemoryRegister and SystemSharedMemoryUnregister."""

    def __init__(self, regions: RegionTable, *, enabled: bool) -> None:
        self._regions = regions
        self._enabled = enabled

    def routes(self) -> Routes:
        """Returns the handlers."""
        handlers: Mapping[str, Callable[[Call], Message]] = {
            "Status": self.status,
            "Register": self.register,
            "Unregister": self.unregister,
        }
        unary: dict[str, Handler] = {
            f"{SERVICE}{METHOD}{name}": partial(_answer, one) for name, one in handlers.items()
        }
        # The native transport tells the client's address of prompt methods only.
        return Routes(unary=unary, prompt=set(unary))

    def status(self, call: Call) -> pb.SystemSharedMemoryStatusResponse:
        """Handles SystemSharedMemoryStatus. Raises NotFoundError if the request names a region and there is none."""
        owner = call.caller.owner
        name = parse(pb.SystemSharedMemoryStatusRequest, call.request).name
        found = [self._regions.find(owner, name)] if name else self._regions.all(owner)
        status = pb.SystemSharedMemoryStatusResponse.RegionStatus
        return pb.SystemSharedMemoryStatusResponse(
            regions={
                one.name: status(name=one.name, key=one.key, offset=one.offset, byte_size=one.size) for one in found
            }
        )

    def register(self, call: Call) -> pb.SystemSharedMemoryRegisterResponse:
        """Handles SystemSharedMemoryRegister. Raises ForbiddenError, and as `RegionTable.register` does."""
        self._check_enabled()
        request = parse(pb.SystemSharedMemoryRegisterRequest, call.request)
        self._regions.register(
            call.caller.owner,
            request.name,
            request.key,
            offset=request.offset,
            size=request.byte_size,
            user=user_of(call),
        )
        return pb.SystemSharedMemoryRegisterResponse()

    def unregister(self, call: Call) -> pb.SystemSharedMemoryUnregisterResponse:
        """Handles SystemSharedMemoryUnregister. Without a name, all regions of the caller are forgotten."""
        self._check_enabled()
        name = parse(pb.SystemSharedMemoryUnregisterRequest, call.request).name
        self._regions.unregister(call.caller.owner, name)
        return pb.SystemSharedMemoryUnregisterResponse()

    def _check_enabled(self) -> None:
        if not self._enabled:
            # As Triton has it.
            raise UnknownMethodError("Client shared memory is disabled; --system-shared-memory enables it")


def user_of(call: Call) -> int:
    """Returns the id of the user of the operating system who runs the client. Raises ForbiddenError."""
    found = endpoint(peer_of(str(call.client()), call.metadata))
    try:
        user = None if found is None else connection_user(*found)
    except (OSError, ValueError) as error:
        raise ForbiddenError(f"shared memory: the system doesn't tell who runs the client: {error}") from error
    if user is None:
        raise ForbiddenError(
            "shared memory: expected a client that runs on this host, in the same network namespace, and is connected "
            "without a proxy"
        )
    return user


def _answer(handler: Callable[[Call], Message], call: Call) -> None:
    # The system is asked for all sockets of the host.
    call.in_pool(lambda: _send(call, handler(call)))


def _send(call: Call, message: Message) -> Any:
    call.answer(message.SerializeToString())

"""Ports to listen on: whether another process has one, who, and whether clients are connected."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

#: Time for the process that has a port to say whether it serves, in seconds.
ASK_SECONDS: Final = 1.0
#: The kernel's tables of connections, and their number for one that is established (linux/net/tcp_states.h).
TABLES: Final = (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))
ESTABLISHED: Final = "01"


class TakenPortError(OSError):
    """Another process has a port."""


def address(host: str, port: int) -> str:
    """Returns the address to listen on, as gRPC writes it. A host "unix:PATH" is a socket in the file system."""
    if host.startswith("unix:"):
        return host
    # An IPv6 address contains colons, so it is put in brackets.
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def claim(host: str, port: int) -> None:
    """Checks that a server can listen on a port. Raises TakenPortError if another process has it, OSError otherwise."""
    if host.startswith("unix:"):
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        # As servers do: connections of an earlier server that are being closed are no reason.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise TakenPortError(f"can't listen on {address(host, port)}: another process has the port") from error
            raise OSError(f"can't listen on {address(host, port)}: {error.strerror or error}") from error


def serving(host: str, port: int) -> bool | None:
    """Returns whether the gRPC server at a port serves, or else starts or stops; None if there is no gRPC server."""
    # Imported here, as a free port needs none of it.
    import grpc
    from layerserve.calls.health_check import CHECK, HealthCheckRequest, HealthCheckResponse
    from layerserve.errors import Unavailable, from_status

    where = address(_reachable(host), port)
    try:
        with grpc.insecure_channel(where) as channel:
            check = channel.unary_unary(
                CHECK.path, HealthCheckRequest.SerializeToString, HealthCheckResponse.FromString
            )
            reply: HealthCheckResponse = check(HealthCheckRequest(), timeout=ASK_SECONDS)
    except grpc.RpcError as error:
        metadata: Any = error.trailing_metadata()
        refused = from_status(error.code(), error.details(), metadata)
        # Only a server's own refusal has a code: it finishes its calls.
        return False if isinstance(refused, Unavailable) and refused.code else None
    return reply.serving


def connected(ports: Collection[int]) -> bool:
    """Whether clients are connected to one of these ports of this machine; also where that isn't known."""
    try:
        for table in TABLES:
            for line in table.read_text().splitlines()[1:]:
                _, local, _, state, *_ = line.split()
                if state == ESTABLISHED and int(local.rpartition(":")[2], 16) in ports:
                    return True
    except (OSError, ValueError):
        return True
    return False


def _reachable(host: str) -> str:
    """Returns an address of this machine for a host that stands for all of them."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)

"""Addresses of callers, as gRPC writes them: "ipv4:10.0.0.7:51958", "ipv6:%5B::1%5D:51958", "unix:"."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

#: Metadata by which a server that hands on a call names the address it came from. Only taken on a Unix socket.
PEER_KEY = "layerserve-peer"


@lru_cache(4096)
def endpoint(peer: str) -> tuple[str, int] | None:
    """Address and port; None for a Unix socket, or what can't be read."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return host.strip("[]"), int(port)


def host_of(peer: str, metadata: Sequence[tuple[str, str | bytes]] = ()) -> str:
    """The address that a caller's streams and connections are counted by; empty where it isn't known."""
    found = endpoint(peer)
    if found is not None:
        return found[0]
    return next((value for key, value in metadata if key == PEER_KEY and isinstance(value, str)), "")


def endpoint_of(connection: socket.socket) -> tuple[str, int] | None:
    """Address and port of a connection's other end, as `endpoint` gives them. Raises OSError for one that is closed."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port = connection.getpeername()[:2]
    # IPv4 callers of an IPv6 socket.
    return host.removeprefix("::ffff:") if "." in host else host, port

"""Client addresses, as gRPC writes them: "ipv4:10.0.0.7:51958", "ipv6:%5B::1%5D:51958", "unix:"."""

from __future__ import annotations

import socket
from functools import lru_cache
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import unquote

from layerserve_server.access.gate import Pairs

#: Metadata key for the client's address and port in a forwarded call. Trusted only on a Unix socket.
PEER_KEY = "layerserve-peer"


def without_address(metadata: Pairs) -> Pairs:
    """Returns the metadata of a call that came through a front, which passes on what its clients send.

    An address in it is the client's claim.
    """
    return tuple(pair for pair in metadata if pair[0] != PEER_KEY)


@lru_cache(4096)
def endpoint(peer: str) -> tuple[str, int] | None:
    """Returns the address and port of a peer; None for a Unix socket or an unknown format."""
    kind, _, rest = unquote(peer).partition(":")
    host, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return host.strip("[]"), int(port)


def host_of(peer: str, metadata: Pairs = ()) -> str:
    """Returns what the client's streams and connections are counted by, see `counted_by`; empty if unknown."""
    found = endpoint(peer_of(peer, metadata))
    return "" if found is None else counted_by(found[0])


def peer_of(peer: str, metadata: Pairs) -> str:
    """Returns the client's peer: that of the connection, or the one that a forwarded call tells; empty if unknown."""
    if endpoint(peer) is not None:
        return peer
    return next((value for key, value in metadata if key == PEER_KEY and isinstance(value, str)), "")


@lru_cache(4096)
def counted_by(host: str) -> str:
    """Returns what clients of an address are counted by: the address, or the network (/64) of a public IPv6 address.

    Who has one such address has all 2^64 of its network, each of which would have the limits of an address.
    """
    try:
        address = IPv6Address(host)
    except AddressValueError:
        return host
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    if not address.is_global:
        return host
    return f"{IPv6Address(int(address) >> 64 << 64)}/64"


def endpoint_of(connection: socket.socket) -> tuple[str, int] | None:
    """Returns the address and port of a socket's peer, as `endpoint` does. Raises OSError if the socket is closed."""
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    host, port = connection.getpeername()[:2]
    # An IPv4 client of an IPv6 socket has an address such as ::ffff:10.0.0.7.
    return host.removeprefix("::ffff:") if "." in host else host, port

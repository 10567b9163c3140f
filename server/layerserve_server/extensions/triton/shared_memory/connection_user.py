"""Whose connection it is: the user of the operating system at its other end, if that is on this host.

Linux tells it of each socket (sock_diag(7)). A client can claim anything but this, so it decides whose files a client
may have this server read.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path

#: From linux/netlink.h, linux/sock_diag.h and linux/tcp_states.h.
NETLINK_SOCK_DIAG = 4
SOCK_DIAG_BY_FAMILY = 20
NLM_F_REQUEST_DUMP = 0x301
NLMSG_ERROR, NLMSG_DONE = 2, 3
ESTABLISHED = 1 << 1
#: nlmsghdr.
_HEADER = struct.Struct("=IHHII")
#: inet_diag_req_v2 up to the port of the socket; the rest is zeros.
_REQUEST = struct.Struct("=BBBxI2s46x")
#: inet_diag_msg: port and address of the socket, and its user. What is between isn't needed.
_SOCKET = struct.Struct("=4x2s2x16s40xI")
#: Maximum time for the kernel's answer, in seconds.
SECONDS = 1.0
_OVERFLOW = Path("/proc/sys/kernel/overflowuid")


def connection_user(host: str, port: int) -> int | None:
    """Returns the id of the user who has the socket of this address; None if no process of this host has it.

    Also None if several users have it, or the user isn't known in this container. Raises OSError if the kernel doesn't
    tell.
    """
    address = ip_address(host)
    sockets = (one for family in (socket.AF_INET, socket.AF_INET6) for one in _sockets(family, port))
    found = {user for at, user in sockets if at == address}
    if len(found) != 1:
        return None
    (user,) = found
    # All users that aren't known in the user namespace of this process have the same id.
    return None if user == int(_OVERFLOW.read_text()) else user


def _sockets(family: int, port: int) -> Iterator[tuple[object, int]]:
    """Yields address and user of the connected TCP sockets of this host that have a port."""
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, ESTABLISHED, port.to_bytes(2, "big"))
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_SOCK_DIAG) as kernel:
        kernel.settimeout(SECONDS)
        kernel.send(_HEADER.pack(_HEADER.size + len(request), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST_DUMP, 0, 0) + request)
        while True:
            answer = kernel.recv(1 << 16)
            at = 0
            while at < len(answer):
                size, kind, *_ = _HEADER.unpack_from(answer, at)
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR:
                    raise OSError(-struct.unpack_from("=i", answer, at + _HEADER.size)[0], "sock_diag")
                source, raw, user = _SOCKET.unpack_from(answer, at + _HEADER.size)
                # The kernel may leave out the filter.
                if int.from_bytes(source, "big") == port:
                    yield _address(family, raw), user
                at += (size + 3) & ~3


def _address(family: int, raw: bytes) -> object:
    if family == socket.AF_INET:
        return ip_address(raw[:4])
    found = IPv6Address(raw)
    return found.ipv4_mapped or found

"""Addresses of servers: host:port, several of them, or any target that gRPC resolves."""

from __future__ import annotations

import ipaddress
import re

from layerserve.errors import InvalidArgument

#: Schemes of gRPC's targets that name sockets of this machine.
_LOCAL_SCHEMES = ("unix:", "unix-abstract:", "vsock:")
#: Beginning of an address with one of gRPC's schemes, such as "dns:///".
_SCHEME = re.compile(r"(unix|unix-abstract|vsock|dns|ipv4|ipv6):|[a-z][a-z0-9+.-]*:///")
#: An address without a scheme.
_HOST_AND_PORT = re.compile(r"(\[[^\[\]\s]+\]|[^\[\]:/\s]+):([0-9]{1,5})")


def target(address: str) -> str:
    """Returns gRPC's target for an address, which may be several separated by commas: "10.0.0.1:8500,10.0.0.2:8500".

    Raises InvalidArgument if the address is invalid.
    """
    if not address:
        raise InvalidArgument("address: got an empty string, expected host:port")
    if address.startswith(("http://", "https://", "grpc://", "grpcs://")):
        raise InvalidArgument(f"address: got {address!r}, expected host:port; for TLS use tls=True, or --tls")
    if not _SCHEME.match(address):
        # gRPC would take port 443 for an address without a port.
        for part in address.split(","):
            if not _HOST_AND_PORT.fullmatch(part.strip()):
                raise InvalidArgument(f"address: got {address!r}, expected host:port, such as localhost:8500")
    if "," not in address or address.startswith(("ipv4:", "ipv6:")):
        return address
    versions = {_ip_version(host) for host in _hosts(address)}
    if versions not in ({4}, {6}):
        raise InvalidArgument(
            f"address: got {address!r}, expected IP addresses of one kind, with ports; for servers with names, use one "
            "name that resolves to all of them: dns:///name:port"
        )
    return f"ipv{versions.pop()}:{address.replace(' ', '')}"


def authority(address: str) -> str | None:
    """Returns the `:authority` of calls to an address; None for gRPC's own, which for several is not a valid one."""
    first, comma, _ = address.partition(",")
    return first.removeprefix("ipv4:").removeprefix("ipv6:").strip() if comma else None


def is_local(address: str) -> bool:
    """Whether nothing that is sent to an address leaves this machine."""
    if address.startswith(_LOCAL_SCHEMES):
        return True
    return all(host == "localhost" or _is_loopback(host) for host in _hosts(address))


def may_be_several(address: str) -> bool:
    """Whether an address may be that of several servers: it lists them, or is a name other than "localhost"."""
    if address.startswith(_LOCAL_SCHEMES):
        return False
    hosts = _hosts(address)
    return len(hosts) > 1 or (hosts[0] != "localhost" and _ip_version(hosts[0]) is None)


def servers(address: str) -> tuple[str, ...]:
    """Returns the servers of an address, each as host:port: several IP addresses, or one name or IP address.

    Raises InvalidArgument if only gRPC can tell what they are.
    """
    parts = tuple(dict.fromkeys(_parts(address)))
    if _SCHEME.match(address) and not address.startswith(("dns:", "ipv4:", "ipv6:")):
        parts = ()
    if address.startswith("dns://") and not address.startswith("dns:///"):
        parts = ()  # it names a DNS server
    if not parts or not all(map(_HOST_AND_PORT.fullmatch, parts)):
        raise InvalidArgument(f"address: got {address!r}, expected host:port, or several IP addresses with ports")
    return parts


def is_ip_address(server: str) -> bool:
    """Whether host:port has an IP address, not a name."""
    return _ip_version(_host(server)) is not None


def _hosts(address: str) -> list[str]:
    """Returns the hosts of an address: "dns:///a:1" -> ["a"], "ipv4:127.0.0.1:1,127.0.0.2:1" -> two of them."""
    return [_host(part) for part in _parts(address)]


def _parts(address: str) -> list[str]:
    """Returns the hosts of an address with their ports, if they have one."""
    scheme, colon, rest = address.partition(":")
    if colon and scheme in ("dns", "ipv4", "ipv6"):
        # A DNS target may name its DNS server: dns://8.8.8.8/name:port.
        address = rest.rpartition("/")[2] if scheme == "dns" else rest.lstrip("/")
    return [part.strip() for part in address.split(",")]


def _host(text: str) -> str:
    if text.startswith("["):
        return text[1:].partition("]")[0]
    host, colon, _ = text.rpartition(":")
    return host if colon and ":" not in host else text


def _ip_version(host: str) -> int | None:
    try:
        return ipaddress.ip_address(host).version
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

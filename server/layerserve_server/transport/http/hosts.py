"""Names that a server has for browsers, which tell its own pages from those of other sites."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping

from layerserve_server.access.caller import Caller
from layerserve_server.errors import ForbiddenError, safe_text


class Hosts:
    """Checks Host headers.

    Another site may give its own name this server's address (DNS rebinding): then a browser takes both for one site.
    So a name has to be known, unless the caller has a token: a browser keeps it from other names.
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        """`names` are those under which browsers reach the server, in addition to addresses and "localhost"."""
        self._names = frozenset(name.lower().rstrip(".") for name in names)

    def check(self, headers: Mapping[str, str], caller: Caller) -> None:
        """Raises ForbiddenError for a browser's request under a name that isn't known, without a token."""
        host = headers.get("host", "")
        if not (caller.named and "authorization" in headers) and not self.knows(host):
            raise ForbiddenError(
                f"header 'host': got '{safe_text(host, 80)}', expected an address, localhost, or a name in the "
                "server's setting http_hosts"
            )

    def knows(self, host: str) -> bool:
        """Whether a Host header is an address, "localhost", or one of the names."""
        name, address = host.lower(), host
        if host.startswith("["):
            address = host[1:].partition("]")[0]
        else:
            name = address = name.partition(":")[0].rstrip(".")
        if name == "localhost" or name.endswith(".localhost") or name in self._names:
            return True
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return False
        return True

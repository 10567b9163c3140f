"""What keeps pages of other sites from acting through the browser of a person who may call this server."""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from collections.abc import Iterable

from layerserve_server.errors import ForbiddenError, safe_text
from layerserve_server.transport.http.exchange import HttpRequest

#: Header with the page's secret. Browsers let no other site send it, as the server answers no preflight.
SECRET = "x-layerserve-page"


class Guard:
    """Checks where requests come from."""

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        """`hosts` are names under which browsers reach the server, in addition to addresses and "localhost"."""
        self._hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        #: In the page, and in each request of its script that changes something.
        self.secret = secrets.token_urlsafe(32)

    def check(self, request: HttpRequest, *, changes: bool) -> None:
        """Raises ForbiddenError for a request of another site, and for a change without the secret.

        Another site may give its own name this server's address (DNS rebinding): then the browser takes both for one
        site. So a name has to be known, unless the caller has a token: a browser keeps it from other names.
        """
        headers = request.headers
        site = headers.get("sec-fetch-site", "same-origin")
        if site != "same-origin":
            raise ForbiddenError(f"header 'sec-fetch-site': got '{safe_text(site, 40)}', expected same-origin")
        host = headers.get("host", "")
        if not (request.caller.named and "authorization" in headers) and not self.knows(host):
            raise ForbiddenError(
                f"header 'host': got '{safe_text(host, 80)}', expected an address, localhost, or a name in the "
                "server's setting ui_hosts"
            )
        if changes and not hmac.compare_digest(headers.get(SECRET, "").encode(), self.secret.encode()):
            raise ForbiddenError(f"header '{SECRET}': expected the secret of this server's page; load the page again")

    def knows(self, host: str) -> bool:
        """Whether a Host header is an address, "localhost", or one of the names."""
        name, address = host.lower(), host
        if host.startswith("["):
            address = host[1:].partition("]")[0]
        else:
            name = address = name.partition(":")[0].rstrip(".")
        if name == "localhost" or name.endswith(".localhost") or name in self._hosts:
            return True
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return False
        return True

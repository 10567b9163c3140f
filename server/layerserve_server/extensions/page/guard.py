"""What keeps pages of other sites from acting through the browser of a person who may call this server."""

from __future__ import annotations

import hmac
import secrets

from layerserve_server.errors import ForbiddenError, safe_text
from layerserve_server.transport.http.exchange import HttpRequest
from layerserve_server.transport.http.hosts import Hosts

#: Header with the page's secret. Browsers let no other site send it, as the server answers no preflight.
SECRET = "x-layerserve-page"


class Guard:
    """Checks where requests come from."""

    def __init__(self, hosts: Hosts) -> None:
        self._hosts = hosts
        #: In the page, and in each request of its script that changes something.
        self.secret = secrets.token_urlsafe(32)

    def check(self, request: HttpRequest, *, changes: bool) -> None:
        """Raises ForbiddenError for a request of another site, and for a change without the secret."""
        headers = request.headers
        site = headers.get("sec-fetch-site", "same-origin")
        if site != "same-origin":
            raise ForbiddenError(f"header 'sec-fetch-site': got '{safe_text(site, 40)}', expected same-origin")
        self._hosts.check(headers, request.caller)
        if changes and not hmac.compare_digest(headers.get(SECRET, "").encode(), self.secret.encode()):
            raise ForbiddenError(f"header '{SECRET}': expected the secret of this server's page; load the page again")

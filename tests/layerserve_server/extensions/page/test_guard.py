"""Pages of other sites see nothing of the page, and change nothing without its secret."""

from __future__ import annotations

import pytest
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import ForbiddenError
from layerserve_server.extensions.page.guard import SECRET, Guard
from layerserve_server.transport.http.exchange import HttpRequest
from layerserve_server.transport.http.hosts import Hosts

HOSTS = Hosts(["models.example.com"])


def asks(**headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest({}, "", {"host": "localhost", **named}, b"", ANYONE, True)


@pytest.mark.parametrize("site", ["same-site", "cross-site", "none", "", "same", "same-origin-x"])
def test_a_page_of_another_site_sees_nothing(site):
    guard = Guard(HOSTS)
    guard.check(asks(sec_fetch_site="same-origin"), changes=False)
    with pytest.raises(ForbiddenError, match="sec-fetch-site"):
        guard.check(asks(sec_fetch_site=site, **{SECRET: guard.secret}), changes=True)


def test_a_change_needs_the_whole_secret():
    guard = Guard(HOSTS)
    guard.check(asks(**{SECRET: guard.secret}), changes=True)
    for wrong in ("", guard.secret[:-1], guard.secret + "x", guard.secret[1:], " " + guard.secret, Guard(HOSTS).secret):
        with pytest.raises(ForbiddenError, match=SECRET):
            guard.check(asks(**{SECRET: wrong}), changes=True)
    with pytest.raises(ForbiddenError, match=SECRET):
        guard.check(asks(), changes=True)

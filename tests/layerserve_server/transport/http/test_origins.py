"""Which pages a browser may send requests for: those of the very host that it names, and none that resembles it."""

from __future__ import annotations

import pytest
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import ForbiddenError
from layerserve_server.extensions.page.guard import SECRET, Guard
from layerserve_server.transport.http.app import _refuse_other_origins
from layerserve_server.transport.http.exchange import HttpRequest
from layerserve_server.transport.http.hosts import Hosts

HOSTS = Hosts(["models.example.com"])


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "models.example.com", "models.example.com:80", "localhost"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_page_of_the_host_itself_may_send(host, scheme):
    _refuse_other_origins({"host": host, "origin": f"{scheme}://{host}"}, HOSTS, ANYONE)
    _refuse_other_origins({"host": host}, HOSTS, ANYONE)


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "models.example.com", "localhost"])
@pytest.mark.parametrize(
    "origin",
    [
        "http://{}.evil.example",
        "http://{}0",
        "http://{}@evil.example",
        "http://{}/",
        "http://{}#",
        "http://{}:443",
        "http://evil.example/{}",
        "http://evil.example#{}",
        "http://evil-{}",
        "http://evil.{}",
        "http://",
        "{}",
        "://",
        "null",
        "",
        "http://http://{}",
        "http://{0},http://{0}",
    ],
)
def test_a_page_whose_host_only_resembles_it_may_not(host, origin):
    with pytest.raises(ForbiddenError, match="header 'origin'"):
        _refuse_other_origins({"host": host, "origin": origin.format(host)}, HOSTS, ANYONE)


def test_a_part_of_the_host_is_another_host():
    for end in range(len("http://"), len("http://models.example.com")):
        with pytest.raises(ForbiddenError):
            _refuse_other_origins(
                {"host": "models.example.com", "origin": "http://models.example.com"[:end]}, HOSTS, ANYONE
            )


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

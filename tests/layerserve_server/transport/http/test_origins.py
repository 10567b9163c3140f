"""Which pages a browser may send requests for: those of the very host that it names, and none that resembles it."""

from __future__ import annotations

import pytest
from layerserve_server.access.caller import ANYONE
from layerserve_server.errors import ForbiddenError
from layerserve_server.transport.http.app import _refuse_other_origins
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

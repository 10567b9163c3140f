"""The paths of HTTP of all protocols and extensions, without a server."""

from __future__ import annotations

from unittest.mock import MagicMock

from layerserve_server.extensions.installed import Settings
from layerserve_server.transport.http.exchange import HttpRoute
from layerserve_server.wiring import ALL


def http_routes() -> list[HttpRoute]:
    """All routes."""
    core = MagicMock(settings=Settings())
    return [route for one in ALL for route in one.main(core).http(MagicMock()).routes]

"""A server of a fake model with a port for HTTP."""

from __future__ import annotations

import pytest
from http_calls import Http


@pytest.fixture
def serve(put, start):
    connections = []

    def serve_double(*, transport="grpcio", fields=None, **settings):
        put("double", **(fields or {}))
        app = start(transport=transport, http_port=0, **settings)
        connection = Http(app.http_port)
        connections.append(connection)
        return app, connection

    yield serve_double
    for connection in connections:
        connection.close()

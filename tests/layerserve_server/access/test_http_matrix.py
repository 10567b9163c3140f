"""Every route of HTTP with every kind of token."""

from __future__ import annotations

import json

import pytest
from http_calls import Http, exchange
from http_paths import http_routes
from layerserve_server.wiring import RIGHTS as NEEDED
from tokens import ENTRIES, RIGHTS, write_tokens

ROUTES = http_routes()
KINDS = [None, "wrong", *ENTRIES]
NAMES = {"{model}": "double", "{version}": "1", "{label}": "stable", "{region}": "r"}
BODIES = {
    "ModelInfer": {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]},
    "Predict": {"instances": [[1, 2]]},
}
#: Settings of the server, and methods that no model has.
OF_NO_MODEL = ("/trace/setting", ":classify", ":regress")


@pytest.fixture
def call(put, start, tmp_path):
    put("double")
    app = start(http_port=0, tokens=write_tokens(tmp_path / "tokens.toml"))
    connection = Http(app.http_port)
    yield connection
    connection.close()


def wanted(route, token):
    """The statuses of a refusal; empty if the route is open to the token."""
    right = NEEDED[route.method]
    if right == "open":
        return ()
    if token in (None, "wrong", "expired"):
        return (401,)
    of_a_model = "{model}" in route.path and not route.path.endswith(OF_NO_MODEL)
    if token == "other-models":
        return (403,) if of_a_model else ()
    return () if right == "any" or token in ("all", right) else (403,)


def test_every_route_with_every_kind_of_token(call):
    assert len(ROUTES) >= 10
    seen = set()
    for route in ROUTES:
        path = route.path
        for part, name in NAMES.items():
            path = path.replace(part, name)
        body = json.dumps(BODIES.get(route.method.rpartition("/")[2], {})).encode() if route.verb == "POST" else None
        for token in KINDS:
            reply = call(route.verb, path, body, **({} if token is None else {"Authorization": f"Bearer {token}"}))
            refused = (reply.status,) if reply.status in (401, 403) else ()
            assert refused == wanted(route, token), (route.verb, path, token, reply.body)
            seen.add((NEEDED[route.method], token, bool(refused)))
    # Each right opens something to the token that has it, and is refused to another.
    for right in {NEEDED[route.method] for route in ROUTES} & set(RIGHTS):
        assert {(right, right, False), (right, next(other for other in RIGHTS if other != right), True)} <= seen


def test_several_tokens_are_refused_as_over_grpc(put, start, tmp_path):
    put("double")
    app = start(http_port=0, tokens=write_tokens(tmp_path / "tokens.toml"))
    for first, second in (("all", "wrong"), ("wrong", "all"), ("all", "all")):
        tokens = f"Authorization: Bearer {first}\r\nAuthorization: Bearer {second}\r\n"
        reply = exchange(app.http_port, f"GET /v2/models/double HTTP/1.1\r\nHost: x\r\n{tokens}\r\n".encode())
        assert reply.startswith(b"HTTP/1.1 401 "), reply
        assert b"got 2 headers, expected one" in reply

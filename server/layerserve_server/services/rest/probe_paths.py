"""Paths of HTTP for probes and load balancers, which every caller may read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from layerserve_server.transport.http.exchange import HttpReply, Plain

TEXT = ("content-type", "text/plain; charset=utf-8")
#: What clients of KServe's first protocol ask for at "/".
ALIVE = HttpReply(b'{"status":"alive"}')


def probe_paths(ready: Callable[[], bool]) -> Mapping[str, Plain]:
    """Returns the replies by path. `ready` returns whether clients should use this server."""

    def readiness(_: str) -> HttpReply:
        return HttpReply(b"ready\n", (TEXT,)) if ready() else HttpReply(b"not ready\n", (TEXT,), 503)

    return {"/healthz": lambda _: HttpReply(b"ok\n", (TEXT,)), "/readyz": readiness, "/": lambda _: ALIVE}

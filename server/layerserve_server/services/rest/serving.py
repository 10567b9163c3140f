"""The server for HTTP with all routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from layerserve_server.access.gate import Gate
from layerserve_server.jobs.jobs import Jobs
from layerserve_server.repository.repository import Repository
from layerserve_server.services.rest import metrics_page, open_inference, openapi, tensorflow_serving
from layerserve_server.services.rest.body_reader import BodyReader
from layerserve_server.transport.call import Observer, Routes, Telemetry
from layerserve_server.transport.certificates import Certificates
from layerserve_server.transport.http.exchange import HttpReply, HttpRoute, Plain
from layerserve_server.transport.http.hosts import Hosts
from layerserve_server.transport.http.server import HttpServer
from layerserve_server.transport.limits import Limits
from layerserve_server.transport.memory import MemoryBudget


class Page(Protocol):
    """A page for browsers."""

    def routes(self) -> Sequence[HttpRoute]:
        """Returns its parts, with the rights of their methods."""

    def plain(self) -> Mapping[str, Plain]:
        """Returns replies that every caller may read, by path."""


TEXT = ("content-type", "text/plain; charset=utf-8")
#: Leads a browser to the page.
TO_PAGE = HttpReply(b"", (("location", "/ui"), ("cache-control", "no-store"), ("vary", "accept")), 302)


def http_routes(repository: Repository, reader: BodyReader) -> list[HttpRoute]:
    """Returns the routes of all REST forms. `reader` reads long bodies."""
    predictions = [*open_inference.routes(reader), *tensorflow_serving.routes(repository, reader)]
    return [*predictions, *openapi.routes(repository)]


def make_server(
    handlers: Routes,
    repository: Repository,
    observer: Observer,
    limits: Limits,
    memory: MemoryBudget,
    gate: Gate,
    jobs: Jobs,
    ready: Callable[[], bool],
    *,
    host: str,
    port: int,
    certificates: Certificates | None = None,
    telemetry: Telemetry | None = None,
    page: Callable[[Hosts, BodyReader], Page] | None = None,
    hosts: Iterable[str] = (),
    tensorflow_metrics: CollectorRegistry | None = None,
) -> HttpServer:
    """Makes the server. `handlers` are those of gRPC, `ready` returns the readiness, `page` makes the page.

    `hosts` are names under which browsers reach the server.

    Raises OSError.
    """

    def readiness(_: str) -> HttpReply:
        return HttpReply(b"ready\n", (TEXT,)) if ready() else HttpReply(b"not ready\n", (TEXT,), 503)

    plain: dict[str, Plain] = {
        "/healthz": lambda _: HttpReply(b"ok\n", (TEXT,)),
        "/readyz": readiness,
        # What clients of KServe's first protocol ask.
        "/": lambda _: HttpReply(b'{"status":"alive"}'),
    }
    reader, names = BodyReader(jobs, limits, memory), Hosts(hosts)
    routes = http_routes(repository, reader)
    if tensorflow_metrics is not None:
        routes += metrics_page.routes(tensorflow_metrics)
    if page is not None:
        made = page(names, reader)
        routes += made.routes()
        alive = plain["/"]
        plain |= made.plain()
        plain["/"] = lambda accept: TO_PAGE if "text/html" in accept else alive(accept)
    address: dict[str, Any] = {
        "host": host,
        "port": port,
        "certificates": certificates,
        "telemetry": telemetry,
        "hosts": names,
    }
    return HttpServer(routes, plain, handlers, observer, limits, memory, gate, **address)

"""HTTP endpoints for operators: Prometheus metrics, and liveness and readiness for probes and load balancers."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import Exemplar, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from layerserve_server.errors import ForbiddenError, ServerError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Timeout for a client's request, and for an idle connection, in seconds.
REQUEST_SECONDS = 10.0
#: What a process of the server accepts of another one. Parsing the text of metrics takes ten times as long.
SAMPLES = "application/json"
#: Maximum number of connections. Above it the oldest are closed: idle ones and slow senders.
MAX_CONNECTIONS = 64


class Reader(Protocol):
    """Who reads metrics."""

    def may(self, right: Literal["read"], model: str) -> bool:
        """Whether it may read what is of a model."""


class MetricPage(NamedTuple):
    """A page of metrics."""

    registry: CollectorRegistry
    #: Labels whose value is the name of a model.
    model_labels: Sequence[str] = ("model",)


class Readable(Collector):
    """The metrics of a page, without those of models that a reader may not read."""

    def __init__(self, page: MetricPage, reader: Reader, names: Container[str] | None = None) -> None:
        """With `names`, only samples of these names."""
        self._page, self._reader, self._names = page, reader, names
        # Once for each model of a page, which has many samples of it.
        self._may = cache(lambda model: not model or reader.may("read", model))

    def restricted_registry(self, names: Iterable[str]) -> Readable:
        """Returns the samples of these names. Called by the library, for "/metrics?name[]=..."."""
        return Readable(self._page, self._reader, frozenset(names))

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics. Called when a page is read."""
        for family in self._page.registry.collect():
            shown = Metric(family.name, family.documentation, family.type, family.unit)
            shown.samples = [sample for sample in family.samples if self._shows(sample)]
            if shown.samples or self._names is None:
                yield shown

    def _shows(self, sample: Sample) -> bool:
        named = self._names is None or sample.name in self._names
        labels = (label for label in self._page.model_labels if label in sample.labels)
        return named and all(self._may(sample.labels[label]) for label in labels)


def dump_samples(metrics: Collector) -> bytes:
    """Returns metrics for another process of the server."""
    families = (
        (family.name, family.documentation, family.type, [(*sample[:3], sample.exemplar) for sample in family.samples])
        for family in metrics.collect()
    )
    return json.dumps(list(families)).encode()


def load_samples(page: bytes) -> Iterator[Metric]:
    """Yields the metrics of another process of the server."""
    for name, text, kind, samples in json.loads(page):
        family = Metric(name, text, kind)
        family.samples = [
            Sample(of, labels, value, None, exemplar and Exemplar(*exemplar)) for of, labels, value, exemplar in samples
        ]
        yield family


class Probes:
    """HTTP server for pages of metrics, `/healthz` and `/readyz`; 404 for other paths."""

    def __init__(
        self,
        host: str,
        port: int,
        pages: Mapping[str, MetricPage],
        ready: Callable[[], bool],
        admit: Callable[[str, str | None], Reader],
    ) -> None:
        """Starts the server. `pages` are the metrics by path, and `ready` returns the readiness.

        `admit` is called with the path and the authorization header of a request, and returns the caller; it raises
        UnauthenticatedError or ForbiddenError if the caller has no right to it. Raises OSError if the port is taken.
        """
        # One page of metrics at a time: that of 850 models takes 0.7 seconds of Python's lock.
        rendering = threading.Lock()

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            path = environ.get("PATH_INFO", "")
            if path in pages:
                try:
                    reader = admit(path, environ.get("HTTP_AUTHORIZATION"))
                except ServerError as error:
                    status = "403 Forbidden" if isinstance(error, ForbiddenError) else "401 Unauthorized"
                    return _text(start_response, status, str(error), ("WWW-Authenticate", "Bearer"))
            if path in pages:
                if path != "/metrics":
                    # In OpenMetrics, the library writes underscores for colons, which names on these pages may have.
                    environ["HTTP_ACCEPT"] = "text/plain"
                metrics = Readable(pages[path], reader)
                with rendering:
                    if environ.get("HTTP_ACCEPT") == SAMPLES:
                        start_response("200 OK", [("Content-Type", SAMPLES)])
                        return [dump_samples(metrics)]
                    page: WSGIApplication = make_wsgi_app(metrics)
                    return page(environ, start_response)
            status, text = {
                "/healthz": ("200 OK", "ok"),
                "/readyz": ("200 OK", "ready") if ready() else ("503 Service Unavailable", "not ready"),
            }.get(path, ("404 Not Found", "expected /metrics, /healthz or /readyz"))
            return _text(start_response, status, text)

        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        kind = type("Server", (_Server,), {"address_family": family})
        try:
            self._server: _Server = make_server(host, port, answer, kind, _Handler)
        except OSError as error:
            shown = f"[{host}]" if ":" in host else host
            raise OSError(f"can't listen on {shown}:{port} for metrics: is the port taken?") from error
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops the server."""
        # Wakes its thread, which otherwise notices within half a second only.
        with suppress(OSError):
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _text(start_response: StartResponse, status: str, text: str, *headers: tuple[str, str]) -> Iterable[bytes]:
    data = f"{text}\n".encode()
    length = ("Content-Length", str(len(data)))
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), length, *headers])
    return [data]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    #: Closing doesn't wait for the threads of idle clients.
    block_on_close = False
    #: Listen backlog. With the standard library's five, further connections wait for a second or more.
    request_queue_size = 1024

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        #: Open connections, oldest first.
        self._open: dict[socket.socket, None] = {}
        self._lock = threading.Lock()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            if len(self._open) >= MAX_CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                # Its thread then reads the end of the stream and closes it.
                with suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._open[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores errors of clients that disconnected or timed out."""


class _Handler(WSGIRequestHandler):
    timeout = REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, since probes arrive every few seconds."""

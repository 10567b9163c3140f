"""TensorFlow Serving's page of metrics, on the port of its REST form."""

from __future__ import annotations

from layerserve.v1 import server_pb2
from prometheus_client import generate_latest

from layerserve_server.extensions.extension import Paths
from layerserve_server.services.server import SERVICE
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated
from layerserve_server.transport.http.statuses import error_reply
from layerserve_server.transport.probes import MetricPage, Readable

#: Prometheus's text format.
PLAIN = ("content-type", "text/plain; version=0.0.4; charset=utf-8")


def paths(path: str, page: MetricPage | None) -> Paths:
    """Returns the path. It needs the right of `GetServer`, and has metrics of models that the caller may read.

    Without a page it says how to have one.
    """
    if page is None:
        missing = error_reply(f"path '{path}': --tensorflow-serving-metrics adds it", 404, "unknown_path")
        return Paths(plain={path: lambda _: missing})

    def translate(request: HttpRequest) -> Translated:
        metrics = Readable(page, request.caller)
        # The method only gives the page its right and limits: one that costs nothing.
        message = server_pb2.GetServerRequest().SerializeToString()
        return Translated(message, lambda _: HttpReply(generate_latest(metrics), (PLAIN,)))

    return Paths(routes=[HttpRoute("GET", path, SERVICE + "GetServer", translate, slow_replies=True)])

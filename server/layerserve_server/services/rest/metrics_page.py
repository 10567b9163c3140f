"""TensorFlow Serving's page of metrics, on the port of its REST form."""

from __future__ import annotations

from layerserve.v1 import server_pb2
from prometheus_client import CollectorRegistry, generate_latest

from layerserve_server.probes import TENSORFLOW_SERVING, Readable
from layerserve_server.services.server import SERVICE
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute, Translated

#: Prometheus's text format.
PLAIN = ("content-type", "text/plain; version=0.0.4; charset=utf-8")


def routes(metrics: CollectorRegistry) -> list[HttpRoute]:
    """Returns the route. It needs the right of `GetServer`, and has metrics of models that the caller may read."""

    def translate(request: HttpRequest) -> Translated:
        page = Readable(metrics, request.caller)
        # The method only gives the page its right and limits: one that costs nothing.
        message = server_pb2.GetServerRequest().SerializeToString()
        return Translated(message, lambda _: HttpReply(generate_latest(page), (PLAIN,)))

    return [HttpRoute("GET", TENSORFLOW_SERVING, SERVICE + "GetServer", translate, slow_replies=True)]

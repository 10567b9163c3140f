# Generated from async_model_reports.py by `make client`. Edit that file instead.
"""The methods of the blocking client about what models are and do, and about the server."""

from __future__ import annotations

from typing import TypeVar

from layerserve.flow import Flow
from layerserve.model_graph import ModelGraph, RankDir
from layerserve.model_info import model_spec
from layerserve.model_statistics import Statistics, model_statistics
from layerserve.node_shapes import node_shapes
from layerserve.server_info import ServerInfo, get_server

T = TypeVar("T")


class ModelReports:
    """The methods of `Client` about what models are and do, and about the server."""

    def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        raise NotImplementedError

    def graph(
        self,
        model: str,
        *,
        version: int | None = None,
        label: str | None = None,
        rankdir: RankDir = "TB",
        limit: int = 1000,
        timeout: float | None = None,
    ) -> ModelGraph:
        """Return a drawing of a model's nodes with their shapes, which notebooks show. Images require graphviz.

        Of more than `limit` nodes the first are drawn, from top to bottom ("TB") or from left to right ("LR").
        `timeout` is in seconds; default: the client's.

        Example:
            graph = client.graph("mnist")
            graph.save("mnist.svg")      -> also .png, .pdf, .dot

        Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelNotReady, InvalidArgument (an option).
        """
        return ModelGraph(self._run(node_shapes(model_spec(model, version, label), ()), timeout), rankdir, limit)

    def statistics(self, model: str | None = None, *, timeout: float | None = None) -> Statistics:
        """Return what all models, or one, have done since the server started: counts and sums of times.

        Models that aren't loaded and that no call has named have none. Two results give rates: `later.since(earlier)`.
        `timeout` is in seconds; default: the client's.

        Example:
            earlier = client.statistics()
            ...
            rates = (client.statistics()).since(earlier)
            rates["mnist"].answered_per_second, rates["mnist"].seconds_at(0.99)
        """
        return self._run(model_statistics(model), timeout)

    def server(self, *, timeout: float | None = None) -> ServerInfo:
        """Return what serves, since when, and which files in its folder it doesn't serve.

        `timeout` is in seconds; default: the client's.

        Example:
            info = client.server()
            info.version, info.start_time, info.misplaced
        """
        return self._run(get_server(), timeout)

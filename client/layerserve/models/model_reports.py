"""The methods of the asyncio client about what models are and do, and about the server."""

from __future__ import annotations

from typing import TypeVar

from layerserve.calls.flow import Flow
from layerserve.models.drawing import ModelGraph, RankDir
from layerserve.models.info import model_spec
from layerserve.models.node_shapes import node_shapes
from layerserve.models.server_info import ServerInfo, get_server
from layerserve.models.statistics import Statistics, model_statistics

T = TypeVar("T")


class AsyncModelReports:
    """The methods of `AsyncClient` about what models are and do, and about the server."""

    async def _run(self, flow: Flow[T], timeout: float | None = None) -> T:
        raise NotImplementedError

    async def graph(
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
            graph = await client.graph("mnist")
            graph.save("mnist.svg")      -> also .png, .pdf, .dot

        Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelNotReady, InvalidArgument (an option).
        """
        return ModelGraph(await self._run(node_shapes(model_spec(model, version, label), ()), timeout), rankdir, limit)

    async def statistics(self, model: str | None = None, *, timeout: float | None = None) -> Statistics:
        """Return what all models, or one, have done since the server started: counts and sums of times.

        Models that aren't loaded and that no call has named have none. Two results give rates: `later.since(earlier)`.
        `timeout` is in seconds; default: the client's.

        Example:
            earlier = await client.statistics()
            ...
            rates = (await client.statistics()).since(earlier)
            rates["mnist"].answered_per_second, rates["mnist"].seconds_at(0.99)
        """
        return await self._run(model_statistics(model), timeout)

    async def server(self, *, timeout: float | None = None) -> ServerInfo:
        """Return what serves, since when, and which files in its folder it doesn't serve.

        `timeout` is in seconds; default: the client's.

        Example:
            info = await client.server()
            info.version, info.start_time, info.misplaced
        """
        return await self._run(get_server(), timeout)

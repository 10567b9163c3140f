"""Parts about models: the list, one model with its versions, its graph, and its live numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from layerserve.v1 import graph_pb2, models_pb2, tensor_pb2

from layerserve_server.errors import UnknownModelError, safe_text
from layerserve_server.protocols.inference import inference_pb2
from layerserve_server.services.graph import SERVICE as GRAPH
from layerserve_server.services.models import SERVICE as MODELS
from layerserve_server.services.open_inference.inference import SERVICE as INFERENCE
from layerserve_server.services.ui.fields import Fields
from layerserve_server.services.ui.graph import drawings
from layerserve_server.services.ui.guard import Guard
from layerserve_server.services.ui.pages import Pages
from layerserve_server.services.ui.part import Show, shown
from layerserve_server.services.ui.rates import History
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute

#: Number of models on a page of the list, of versions of a model, and of inputs and outputs of a version.
PAGE, MAX_VERSIONS, MAX_TENSORS = 50, 200, 32
READY = models_pb2.VERSION_STATE_READY


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model in the list: the version that answers, or else its newest."""

    version: models_pb2.ModelVersion
    versions: int
    labels: Sequence[tuple[str, int]]


class ModelParts:
    """Parts of the page that describe models."""

    def __init__(self, pages: Pages, guard: Guard) -> None:
        self._pages = pages
        self._guard = guard
        self._history = History()

    def routes(self) -> list[HttpRoute]:
        """Returns the routes."""
        guard, of_models = self._guard, models_pb2.ListModelsResponse
        statistics = inference_pb2.ModelStatisticsResponse
        return [
            shown(guard, "models", MODELS + "ListModels", of_models, self._models),
            shown(guard, "model", MODELS + "ListModels", of_models, self._model),
            shown(guard, "versions", MODELS + "ListModels", of_models, self._versions),
            shown(guard, "rates", INFERENCE + "ModelStatistics", statistics, self._rates),
            shown(guard, "graph", GRAPH + "GetNodeShapes", graph_pb2.GetNodeShapesResponse, self._graph),
        ]

    def _models(self, fields: Fields, _: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        search, page = fields.text("search"), fields.number("page")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            found = [one for one in _lines(reply.versions) if search.lower() in one.version.name.lower()]
            last = max(0, -(-len(found) // PAGE) - 1)
            at = min(page, last)
            models = found[at * PAGE : (at + 1) * PAGE]
            return self._pages.html(
                "models.html", models=models, search=search, page=at, last=last, count=len(found), states=state
            )

        return models_pb2.ListModelsRequest(), show

    def _model(self, fields: Fields, request: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        name = fields.required("name")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            default = _lines(_known(reply, name))[0].version
            trains = request.caller.may("train", name)
            return self._pages.html("model.html", name=name, default=default, limit=MAX_TENSORS, trains=trains)

        return models_pb2.ListModelsRequest(name=name), show

    def _versions(self, fields: Fields, request: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        name = fields.required("name")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            versions = _known(reply, name)
            return self._pages.html(
                "versions.html",
                name=name,
                versions=versions[:MAX_VERSIONS],
                left_out=max(0, len(versions) - MAX_VERSIONS),
                manages=request.caller.may("manage", name),
                states=state,
                engines=engines,
                pinned=any(one.pinned for one in versions),
            )

        return models_pb2.ListModelsRequest(name=name), show

    def _rates(self, fields: Fields, _: HttpRequest) -> tuple[inference_pb2.ModelStatisticsRequest, Show]:
        name = fields.required("name")

        def show(reply: inference_pb2.ModelStatisticsResponse) -> HttpReply:
            live = [self._history.take(one) for one in reply.model_stats[:MAX_VERSIONS]]
            # Busy ones first. A version that never got a request has no charts.
            live.sort(key=lambda one: (-(one.rates.requests if one.rates else 0), -one.requests))
            return self._pages.html("rates.html", name=name, live=live, asked=[one for one in live if one.requests][:3])

        return inference_pb2.ModelStatisticsRequest(name=name), show

    def _graph(self, fields: Fields, request: HttpRequest) -> tuple[graph_pb2.GetNodeShapesRequest, Show]:
        name, level = fields.required("name"), fields.text("level") or None
        spec = tensor_pb2.ModelSpec(name=name)
        if number := fields.number("version"):
            spec.version = number

        def show(reply: graph_pb2.GetNodeShapesResponse) -> HttpReply:
            drawn, rest = drawings(reply, level)
            return self._pages.html(
                "graph.html", model=reply.model, drawings=drawn, rest=rest[:MAX_VERSIONS], level=level
            )

        return graph_pb2.GetNodeShapesRequest(model=spec), show


def state(version: models_pb2.ModelVersion) -> str:
    """Returns a version's state: "ready"."""
    return models_pb2.VersionState.Name(version.state).removeprefix("VERSION_STATE_").lower()


def engines(version: models_pb2.ModelVersion) -> str:
    """Returns what computes a version: "onnxruntime", or "onnxruntime at 1 row, torch at 32 rows"."""
    chosen = [("torch" if one.engine == "eager" else one.engine, one.rows) for one in version.engines]
    names = {name for name, _ in chosen} or {"torch"}
    found = [f"{name} at {rows} row{'s' * (rows != 1)}" for name, rows in chosen]
    text = ", ".join(found if len(names) > 1 else names)
    return text + (", still being timed" if version.choosing_engine else "")


def _known(reply: models_pb2.ListModelsResponse, name: str) -> Sequence[models_pb2.ModelVersion]:
    if not reply.versions:
        raise UnknownModelError(f"unknown model '{safe_text(name, 80)}'")
    return reply.versions


def _lines(versions: Sequence[models_pb2.ModelVersion]) -> list[ModelLine]:
    """Returns a line for each model, of versions by name, then newest first."""
    by_name: dict[str, list[models_pb2.ModelVersion]] = {}
    for one in versions:
        by_name.setdefault(one.name, []).append(one)
    lines = []
    for of_model in by_name.values():
        default = next((one for one in of_model if one.served_by_default), of_model[0])
        labels = [(label, one.version) for one in of_model for label in one.labels]
        lines.append(ModelLine(default, len(of_model), labels))
    return lines

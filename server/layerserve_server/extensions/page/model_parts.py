"""Parts about models: the list, one model with its versions, its graph, and its live numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from layerserve.v1 import graph_pb2, models_pb2, tensor_pb2

from layerserve_server.errors import UnknownModelError, safe_text
from layerserve_server.extensions.drawings.graph import drawings
from layerserve_server.extensions.page.fields import Fields
from layerserve_server.extensions.page.guard import Guard
from layerserve_server.extensions.page.pages import Pages
from layerserve_server.extensions.page.part import Show, shown
from layerserve_server.extensions.page.rates import History, Rates
from layerserve_server.extensions.page.served import Served
from layerserve_server.services.graph import SERVICE as GRAPH
from layerserve_server.services.models import SERVICE as MODELS
from layerserve_server.transport.http.exchange import HttpReply, HttpRequest, HttpRoute

#: Number of models on a page of the list, of versions of a model, and of inputs and outputs of a version.
PAGE, MAX_VERSIONS, MAX_TENSORS = 50, 200, 32
READY = models_pb2.VERSION_STATE_READY


#: States of versions that answer requests, at once or after they were loaded for one.
ANSWERING = (READY, models_pb2.VERSION_STATE_AVAILABLE)


@dataclass(frozen=True, slots=True)
class ModelLine:
    """A model in the list: the version that answers, or else its newest."""

    version: models_pb2.ModelVersion
    versions: Sequence[models_pb2.ModelVersion]
    labels: Sequence[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Traffic:
    """What all versions of a model did in the last seconds."""

    requests: float  # per second
    failed: float  # per second
    latency: float  # mean, in seconds; 0 without requests

    @classmethod
    def of(cls, versions: Sequence[Rates]) -> Traffic:
        """Adds versions up."""
        requests = sum(one.requests for one in versions)
        seconds = sum(one.requests * one.latency for one in versions)
        return cls(requests, sum(one.failed for one in versions), seconds / requests if requests else 0.0)


class ModelParts:
    """Parts of the page that describe models."""

    def __init__(self, pages: Pages, guard: Guard, served: Served) -> None:
        self._pages = pages
        self._guard = guard
        self._served = served
        self._history = History()

    def routes(self) -> list[HttpRoute]:
        """Returns the routes."""
        guard, of_models = self._guard, models_pb2.ListModelsResponse
        return [
            shown(guard, "models", MODELS + "ListModels", of_models, self._models),
            shown(guard, "model", MODELS + "ListModels", of_models, self._model),
            shown(guard, "tensors", MODELS + "ListModels", of_models, self._tensors),
            shown(guard, "versions", MODELS + "ListModels", of_models, self._versions),
            shown(guard, "rates", MODELS + "ListModels", of_models, self._rates),
            shown(guard, "graph", GRAPH + "GetNodeShapes", graph_pb2.GetNodeShapesResponse, self._graph),
        ]

    def _models(self, fields: Fields, _: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        search, page = fields.text("search"), fields.number("page")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            found = [one for one in _lines(reply.versions) if search.lower() in one.version.name.lower()]
            last = max(0, -(-len(found) // PAGE) - 1)
            at = min(page, last)
            models = found[at * PAGE : (at + 1) * PAGE]
            traffic = self._traffic(models)
            return self._pages.html(
                "models.html",
                models=[(one, _canary(one.versions), traffic.get(one.version.name)) for one in models],
                search=search,
                page=at,
                last=last,
                count=len(found),
                states=state,
            )

        return models_pb2.ListModelsRequest(), show

    def _traffic(self, lines: Sequence[ModelLine]) -> Mapping[str, Traffic]:
        """Returns what models do now, by name, without those that weren't measured twice yet."""
        by_name: dict[str, list[Rates]] = {}
        counted = self._served.counts([version for line in lines for version in _answering(line.versions)])
        for (name, version), counts in counted.items():
            if (rates := self._history.rates(name, version, counts)) is not None:
                by_name.setdefault(name, []).append(rates)
        return {name: Traffic.of(rates) for name, rates in by_name.items()}

    def _model(self, fields: Fields, _: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        name = fields.required("name")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            _known(reply, name)
            return self._pages.html("model.html", name=name)

        return models_pb2.ListModelsRequest(name=name), show

    def _tensors(self, fields: Fields, _: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        name = fields.required("name")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            version = _lines(_known(reply, name))[0].version
            return self._pages.html("tensors.html", version=version, limit=MAX_TENSORS)

        return models_pb2.ListModelsRequest(name=name), show

    def _versions(self, fields: Fields, request: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        name = fields.required("name")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            versions = _known(reply, name)
            default = next((one for one in versions if one.served_by_default), None)
            return self._pages.html(
                "versions.html",
                name=name,
                default=default,
                canary=_canary(versions),
                below=_below(versions, default),
                versions=versions[:MAX_VERSIONS],
                left_out=max(0, len(versions) - MAX_VERSIONS),
                manages=request.caller.may("manage", name),
                states=state,
                engines=engines,
                origins=self._served.origins(versions[:MAX_VERSIONS]),
                pinned=any(one.pinned for one in versions),
            )

        return models_pb2.ListModelsRequest(name=name), show

    def _rates(self, fields: Fields, _: HttpRequest) -> tuple[models_pb2.ListModelsRequest, Show]:
        name = fields.required("name")

        def show(reply: models_pb2.ListModelsResponse) -> HttpReply:
            counted = self._served.counts(_answering(_known(reply, name)))
            live = [self._history.take(*version, counts) for version, counts in counted.items()]
            # Busy ones first. A version that never got a request has no charts.
            live.sort(key=lambda one: (-(one.rates.requests if one.rates else 0), -one.requests))
            return self._pages.html("rates.html", name=name, live=live, asked=[one for one in live if one.requests][:3])

        return models_pb2.ListModelsRequest(name=name), show

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
    """Returns what computes a version: "onnxruntime", or "onnxruntime at 1, 8 rows; torch at 32 rows"."""
    by_name: dict[str, list[str]] = {}
    for one in version.engines:
        by_name.setdefault("torch" if one.engine == "eager" else one.engine, []).append(str(one.rows))
    found = [f"{name} at {', '.join(rows)} row{'s' * (rows != ['1'])}" for name, rows in by_name.items()]
    text = "; ".join(found) if len(found) > 1 else next(iter(by_name), "torch")
    return text + (", still being timed" if version.choosing_engine else "")


def _canary(versions: Sequence[models_pb2.ModelVersion]) -> models_pb2.ModelVersion | None:
    """Returns the version that answers a share of the callers as the canary; None if there is none."""
    return next((one for one in versions if one.canary_share and one.state in ANSWERING), None)


def _below(versions: Sequence[models_pb2.ModelVersion], default: models_pb2.ModelVersion | None) -> int:
    """Returns the version that a rollback leads to: the highest below the default that may be loaded; 0 for none."""
    answering = (one.version for one in versions if one.state in ANSWERING)
    return max((number for number in answering if default is not None and number < default.version), default=0)


def _answering(versions: Sequence[models_pb2.ModelVersion]) -> list[tuple[str, int]]:
    """Returns the versions of a model that answer requests, of the newest ones."""
    return [(one.name, one.version) for one in versions[:MAX_VERSIONS] if one.state in ANSWERING]


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
        lines.append(ModelLine(default, of_model, labels))
    return lines

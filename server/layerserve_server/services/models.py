"""Handlers of layerserve.v1.ModelService, which lists models and serves their files."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

from layerserve.v1 import models_pb2
from prometheus_client import CollectorRegistry

from layerserve_server.errors import BusyError, UnknownVersionError, VersionFailedError
from layerserve_server.repository.entry import Description
from layerserve_server.repository.repository import Repository
from layerserve_server.services.downloads import downloaded
from layerserve_server.services.messages import chosen_by, format_name, parse, parsed
from layerserve_server.services.model_statistics import model_statistics
from layerserve_server.services.model_version import model_version
from layerserve_server.training.conversion import Converter
from layerserve_server.transport.call import Call, Routes, Stream

SERVICE = "/layerserve.v1.ModelService/"

#: Size of the pieces of a downloaded file, in bytes.
CHUNK = 256 * 1024


class ModelService:
    """Handlers of the model service."""

    def __init__(self, repository: Repository, converter: Converter, registry: CollectorRegistry) -> None:
        """`registry` has the metrics of all processes of the server."""
        self._repository = repository
        self._converter = converter
        self._registry = registry

    def routes(self) -> Routes:
        """Returns the handlers."""
        return Routes(
            unary={
                SERVICE + "ListModels": self.list_models,
                SERVICE + "GetModel": self.get_model,
                SERVICE + "GetModelStatistics": self.get_model_statistics,
            },
            lists={SERVICE + "ListModels", SERVICE + "GetModelStatistics"},
            server_streams={SERVICE + "DownloadModel": self.download_model},
        )

    def list_models(self, call: Call) -> None:
        """Handles ListModels: replies with all versions, or those of one model; none for an unknown model.

        Versions of models that the caller may not read are left out.
        """
        request = parse(models_pb2.ListModelsRequest, call.request)
        versions = [
            one for one in self._repository.catalogue.describe(request.name) if call.caller.may("read", one.name)
        ]
        response = models_pb2.ListModelsResponse(versions=map(model_version, versions))
        call.answer(response.SerializeToString())

    def get_model(self, call: Call) -> None:
        """Handles GetModel: replies with a version. Raises as `chosen_by` and `Catalogue.describe_one` do.

        What a version has is known once it was loaded; one on standby is loaded for that.
        """
        request = parse(models_pb2.GetModelRequest, call.request)
        chosen = chosen_by(call.caller, "any", request.model)

        def answer(description: Description) -> None:
            call.set_metric_labels(description.name, description.version)
            call.answer(models_pb2.GetModelResponse(version=model_version(description)).SerializeToString())

        description = self._repository.catalogue.describe_one(*chosen)
        if description.answers and not description.outputs:
            with contextlib.suppress(VersionFailedError, BusyError):
                loaded = partial(self._describe, chosen, answer)
                self._repository.leases.when_loaded(
                    *chosen, lambda _: call.in_pool(loaded), lambda: call.answered, kept=True
                )
                return
        answer(description)

    def _describe(self, chosen: tuple[str, int | None, str | None], answer: Callable[[Description], None]) -> None:
        answer(self._repository.catalogue.describe_one(*chosen))

    def get_model_statistics(self, call: Call) -> None:
        """Handles GetModelStatistics: replies with the counts and times of all models, or of one.

        Models that the caller may not read are left out.
        """
        request = parse(models_pb2.GetModelStatisticsRequest, call.request)
        found = [
            one
            for one in model_statistics(self._registry.collect())
            if request.name in ("", one.name) and call.caller.may("read", one.name)
        ]
        response = models_pb2.GetModelStatisticsResponse(models=found)
        response.time.GetCurrentTime()
        call.answer(response.SerializeToString())

    async def download_model(self, stream: Stream) -> AsyncGenerator[bytes, None]:
        """Handles DownloadModel: yields a version's file, converted to the requested format.

        Raises as `chosen_by`, `Repository.make_present` and `Converter.converted` do.
        """
        request = await parsed(stream, models_pb2.DownloadModelRequest, await stream.first())
        chosen = chosen_by(stream.caller, "read", request.model)
        description = await stream.blocking(lambda: self._repository.make_present(*chosen))
        stream.set_metric_labels(description.name, description.version)
        format = format_name(request.format)
        several_files = Path(description.path).suffix in (".json", ".pb")
        with contextlib.ExitStack() as resources:
            version = model_version(description)
            path = Path(description.path)
            if format or several_files:
                conversion = self._converter.converted(
                    path, format, description.parameter_count, lambda: not stream.listens()
                )
                path = await stream.blocking(lambda: resources.enter_context(conversion))
                version.file, version.file_size_bytes = path.name, path.stat().st_size
            file = resources.enter_context(_open(description, path))
            head = models_pb2.DownloadModelResponse(version=version)
            async for message in downloaded(stream, head, lambda: file.read(CHUNK)):
                yield message


def _open(description: Description, path: Path) -> BinaryIO:
    try:
        # Never a link or a named pipe, in case one has replaced the file.
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb")
    except OSError as error:
        raise UnknownVersionError(
            f"model '{description.name}' version {description.version}: its file can't be read: {error.strerror}"
        ) from error

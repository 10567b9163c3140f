"""What the page shows beside replies of methods: read from the repository, of models that the caller may read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from layerserve.v1 import models_pb2
from prometheus_client import CollectorRegistry

from layerserve_server.errors import ServerError
from layerserve_server.protocols.inference import inference_pb2
from layerserve_server.repository.repository import Repository
from layerserve_server.repository.version import Lease
from layerserve_server.services.open_inference.statistics import statistics
from layerserve_server.services.ui.image_ranges import Range, image_ranges


@dataclass(frozen=True, slots=True)
class Served:
    """The models of the server. Nothing here loads a version."""

    repository: Repository
    #: The metrics of all processes.
    registry: CollectorRegistry
    release: str
    grpc_port: int
    #: Returns the ids of sweeps: versions that they have published name them as their run. Raises ServerError.
    sweep_ids: Callable[[], Collection[str]]

    def origins(self, versions: Sequence[models_pb2.ModelVersion]) -> Mapping[int, str]:
        """Returns the part of the page that has published each version, by number: "run", or "sweep"."""
        published = {one.version: one.training_run for one in versions if one.training_run}
        try:
            # Asked once: it reads the folder of sweeps.
            sweeps = self.sweep_ids() if published else ()
        except ServerError:
            sweeps = ()
        return {version: "sweep" if run in sweeps else "run" for version, run in published.items()}

    def default(self, model: str) -> int | None:
        """Returns the version that answers requests that name none; None if there is none."""
        try:
            found = self.repository.catalogue.describe_one(model)
        except ServerError:
            return None
        return found.version if found.default else None

    def counts(self, versions: Sequence[tuple[str, int]]) -> list[inference_pb2.ModelStatistics]:
        """Returns what versions have done since the server started."""
        return statistics(self.registry, versions)

    def image_ranges(self, model: str, version: int | None) -> Mapping[str, Range]:
        """Returns the range of pixels that the graph of a version expects, by input; empty if the graph doesn't say."""
        lease = self._lease(model, version)
        if lease is None:
            return {}
        with lease as loaded:
            return image_ranges(loaded.model)

    def class_names(self, model: str, version: int | None) -> Mapping[str, Sequence[bytes]]:
        """Returns the names of classes by output, from the model's settings."""
        lease = self._lease(model, version)
        if lease is None:
            return {}
        with lease as loaded:
            return loaded.class_labels

    def _lease(self, model: str, version: int | None) -> Lease | None:
        try:
            return self.repository.leases.lease_loaded(model, version)
        except ServerError:
            return None

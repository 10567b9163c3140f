"""What the page shows beside replies of methods: read from the repository, of models that the caller may read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerserve.v1 import models_pb2

from layerserve_server.errors import ServerError
from layerserve_server.extensions.extension import Core
from layerserve_server.extensions.page.image_ranges import Range, image_ranges
from layerserve_server.observability.totals import Counts, Totals
from layerserve_server.repository.version import Lease


class Served:
    """The models of the server. Nothing here loads a version."""

    def __init__(self, core: Core, grpc_port: int) -> None:
        """`grpc_port` is the actual port."""
        self.repository, self.release, self.grpc_port = core.repository, core.release, grpc_port
        self._registry, self._work = core.registry, core.work

    def origins(self, versions: Sequence[models_pb2.ModelVersion]) -> Mapping[int, str]:
        """Returns the part of the page that has published each version, by number: such as "run"."""
        published = {one.version: one.training_run for one in versions if one.training_run}
        kinds = self._work.kinds(set(published.values()))
        return {version: kinds.get(run, "run") for version, run in published.items()}

    def default(self, model: str) -> int | None:
        """Returns the version that answers requests that name none; None if there is none."""
        try:
            found = self.repository.catalogue.describe_one(model)
        except ServerError:
            return None
        return found.version if found.default else None

    def counts(self, versions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Counts]:
        """Returns what versions have done since the server started."""
        totals = Totals(self._registry.collect())
        return {(name, version): totals.counts((name, str(version))) for name, version in versions}

    def image_ranges(self, model: str, version: int | None) -> Mapping[str, Range]:
        """Returns the range of pixels that the graph of a version expects, by input; empty if the graph doesn't say."""
        lease = self._lease(model, version)
        if lease is None:
            return {}
        with lease as loaded:
            return image_ranges(loaded.model)

    def encodings(self, model: str, version: int | None) -> Mapping[str, str]:
        """Returns what inputs of a version take as bytes, such as "image", by input."""
        lease = self._lease(model, version)
        if lease is None:
            return {}
        with lease as loaded:
            return {name: decoder.encoding for name, decoder in loaded.decoders.items()}

    def class_names(self, model: str, version: int | None) -> Mapping[str, Sequence[bytes]]:
        """Returns the names of classes by output, from the model's settings."""
        lease = self._lease(model, version)
        if lease is None:
            return {}
        with lease as loaded:
            return loaded.class_labels

    def _lease(self, model: str, version: int | None) -> Lease | None:
        try:
            return self.repository.leases.lease_loaded(model, version, kept=True)
        except ServerError:
            return None

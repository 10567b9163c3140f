"""What the page shows beside replies of methods, without a repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerserve.v1.models_pb2 import ModelVersion
from layerserve_server.extensions.page.image_ranges import Range
from layerserve_server.protocols.inference.inference_pb2 import InferStatistics, ModelStatistics, StatisticDuration


class Stub:
    """Stands for `extensions.page.served.Served`: every model has the requests and names that this is given."""

    def __init__(self, release: str = "0") -> None:
        self.release = release
        self.grpc_port = 8500
        self.ranges: Mapping[str, Range] = {}
        #: Of inputs that take encoded images.
        self.encoded: Mapping[str, str] = {}
        self.names: Mapping[str, Sequence[bytes]] = {}
        #: Requests of each version since the server started.
        self.requests = 0

    def origins(self, versions: Sequence[ModelVersion]) -> Mapping[int, str]:
        return {one.version: "sweep" if one.training_run.startswith("sweep") else "run" for one in versions}

    def default(self, model: str) -> int | None:
        return 1

    def counts(self, versions: Sequence[tuple[str, int]]) -> list[ModelStatistics]:
        answered = InferStatistics(success=StatisticDuration(count=self.requests, ns=self.requests * 1_000_000))
        return [
            ModelStatistics(name=name, version=str(version), inference_stats=answered) for name, version in versions
        ]

    def image_ranges(self, model: str, version: int | None) -> Mapping[str, Range]:
        return self.ranges

    def encodings(self, model: str, version: int | None) -> Mapping[str, str]:
        return self.encoded

    def class_names(self, model: str, version: int | None) -> Mapping[str, Sequence[bytes]]:
        return self.names

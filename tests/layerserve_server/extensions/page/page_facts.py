"""What the page shows beside replies of methods, without a repository."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from layerserve.v1.models_pb2 import ModelVersion
from layerserve_server.extensions.page.image_ranges import Range
from layerserve_server.observability.totals import Counts


def counts(
    requests: int, rows: int = 0, batches: int = 0, seconds: float | None = None, failed: int = 0,
    queued: float = 0.0, computed: float = 0.0,
) -> Counts:  # fmt: skip
    """What a version has done, in batches of one request; computed and queued are times."""
    return Counts(
        answered=requests,
        answered_seconds=requests / 1000 if seconds is None else seconds,
        failed=failed,
        failed_seconds=0.0,
        queued=requests,
        queue_seconds=queued,
        batches=batches,
        batched=batches,
        rows=rows,
        compute_seconds=computed,
        waiting_requests=0,
        waiting_rows=0,
    )


class Stub:
    """Stands for `extensions.page.served.Served`: every model has the requests and names that this is given."""

    def __init__(self, release: str = "0") -> None:
        self.release = release
        self.grpc_port = 8500
        self.ranges: Mapping[str, Range] = {}
        #: Of inputs that take encoded images.
        self.encoded: Mapping[str, str] = {}
        self.names: Mapping[str, Sequence[bytes]] = {}
        #: Requests of versions 0, 1, ... since the server started, each of a millisecond.
        self.requests = [0]

    def origins(self, versions: Sequence[ModelVersion]) -> Mapping[int, str]:
        return {one.version: "sweep" if one.training_run.startswith("sweep") else "run" for one in versions}

    def default(self, model: str) -> int | None:
        return 1

    def counts(self, versions: Sequence[tuple[str, int]]) -> Mapping[tuple[str, int], Counts]:
        return {(name, number): counts(self.requests[number % len(self.requests)]) for name, number in versions}

    def image_ranges(self, model: str, version: int | None) -> Mapping[str, Range]:
        return self.ranges

    def encodings(self, model: str, version: int | None) -> Mapping[str, str]:
        return self.encoded

    def class_names(self, model: str, version: int | None) -> Mapping[str, Sequence[bytes]]:
        return self.names

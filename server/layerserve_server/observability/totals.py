"""Sums of the server's own metrics by version, from which statistics and others' metrics are computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prometheus_client.core import Metric, Sample

from layerserve_server.observability.metrics import PREDICTING

#: Name and number of a version, as in the labels.
Version = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Counts:
    """What a version has done since the server started. Times are sums, in seconds."""

    answered: float
    answered_seconds: float
    failed: float
    failed_seconds: float
    #: Requests that were queued.
    queued: float
    queue_seconds: float
    batches: float
    #: Requests in these batches.
    batched: float
    rows: float
    compute_seconds: float
    waiting_requests: float
    waiting_rows: float

    @property
    def computed_seconds(self) -> float:
        """The time that requests spent in computation: each request of a batch takes as long as the batch."""
        return self.compute_seconds * self.batched / self.batches if self.batches else 0.0


class Totals:
    """Sums by sample and version over the methods that run models, and by status where samples have one."""

    def __init__(self, families: Iterable[Metric]) -> None:
        """Sums the samples of metrics once."""
        self._sums: defaultdict[tuple[str, Version], defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
        versions: set[Version] = set()
        for family in families:
            for sample in family.samples:
                labels = sample.labels
                # Calls for which no version was found have empty labels.
                if labels.get("model") and labels.get("version") and "le" not in labels and counted(sample):
                    version = labels["model"], labels["version"]
                    name = sample.name.replace("_streamed_requests", "_requests")
                    self._sums[name, version][labels.get("status", "")] += sample.value
                    versions.add(version)
        #: All versions that have samples, sorted.
        self.versions = sorted(versions)

    def of(self, sample: str, version: Version) -> float:
        """Returns the sum of a sample; 0 if there is none."""
        return sum(self.by_status(sample, version).values())

    def by_status(self, sample: str, version: Version) -> Mapping[str, float]:
        """Returns the sums of a sample by status; under an empty one if the sample has none."""
        return self._sums.get((sample, version), {})

    def counts(self, version: Version) -> Counts:
        """Returns what a version has done."""
        requests, seconds = "layerserve_requests_total", "layerserve_requests_seconds_total"
        answered, answered_seconds = (self.by_status(one, version).get("OK", 0.0) for one in (requests, seconds))
        return Counts(
            answered=answered,
            answered_seconds=answered_seconds,
            failed=self.of(requests, version) - answered,
            failed_seconds=self.of(seconds, version) - answered_seconds,
            queued=self.of("layerserve_queue_seconds_count", version),
            queue_seconds=self.of("layerserve_queue_seconds_sum", version),
            batches=self.of("layerserve_compute_seconds_count", version),
            batched=self.of("layerserve_batch_requests_total", version),
            rows=self.of("layerserve_rows_total", version),
            compute_seconds=self.of("layerserve_compute_seconds_sum", version),
            waiting_requests=self.of("layerserve_queue_requests", version),
            waiting_rows=self.of("layerserve_queue_rows", version),
        )


def counted(sample: Sample) -> bool:
    """Whether a sample is of requests that run a model, or of batches."""
    return "_streamed_" in sample.name or sample.labels.get("method", "Predict") in PREDICTING

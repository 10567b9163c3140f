"""Sums of the server's own metrics by version, from which others' statistics and metrics are computed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from prometheus_client.core import Metric, Sample

from layerserve_server.observability.metrics import PREDICTING

#: Name and number of a version, as in the labels.
Version = tuple[str, str]


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

    def computed_seconds(self, version: Version) -> float:
        """Returns the time that requests spent in computation: each request of a batch takes as long as the batch."""
        batches = self.of("layerserve_compute_seconds_count", version)
        requests = self.of("layerserve_batch_requests_total", version)
        return self.of("layerserve_compute_seconds_sum", version) * requests / batches if batches else 0.0


def counted(sample: Sample) -> bool:
    """Whether a sample is of requests that run a model, or of batches."""
    return "_streamed_" in sample.name or sample.labels.get("method", "Predict") in PREDICTING

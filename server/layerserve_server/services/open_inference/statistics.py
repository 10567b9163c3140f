"""ModelStatistics from the server's metrics, so that it counts the requests of all processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from prometheus_client import CollectorRegistry
from prometheus_client.core import Sample

from layerserve_server.observability.metrics import PREDICTING
from layerserve_server.protocols.inference import inference_pb2 as pb

Version = tuple[str, int]


class Totals(defaultdict[tuple[str, str, str], float]):
    """Sums by sample, model and version."""

    def of(self, sample: str, version: Version) -> float:
        """Returns the sum of a sample of a version; 0 if there is none."""
        return self[sample, version[0], str(version[1])]


def statistics(registry: CollectorRegistry, versions: Collection[Version]) -> list[pb.ModelStatistics]:
    """Returns the counts and times of versions since the server started."""
    totals = _totals(registry)
    return [_statistics(totals, version) for version in versions]


def _totals(registry: CollectorRegistry) -> Totals:
    totals = Totals(float)
    for family in registry.collect():
        for sample in family.samples:
            labels = sample.labels
            if {"model", "version"} <= labels.keys() and _counted(sample):
                name = sample.name.replace("_streamed_requests", "_requests")
                if "status" in labels:
                    name += " ok" if labels["status"] == "OK" else " failed"
                totals[name, labels["model"], labels["version"]] += sample.value
    return totals


def _counted(sample: Sample) -> bool:
    """Whether a sample is of requests that run a model, or of batches."""
    if "le" in sample.labels:
        return False
    return "_streamed_" in sample.name or sample.labels.get("method", "Predict") in PREDICTING


def _statistics(totals: Totals, version: Version) -> pb.ModelStatistics:
    def duration(count: str, seconds: str) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=int(totals.of(count, version)), ns=round(totals.of(seconds, version) * 1e9))

    batches = duration("layerserve_compute_seconds_count", "layerserve_compute_seconds_sum")
    requests = int(totals.of("layerserve_batch_requests_total", version))
    # Each request of a batch takes as long as the batch.
    computed = pb.StatisticDuration(
        count=requests, ns=round(batches.ns * requests / batches.count) if batches.count else 0
    )
    return pb.ModelStatistics(
        name=version[0],
        version=str(version[1]),
        inference_count=int(totals.of("layerserve_rows_total", version)),
        execution_count=batches.count,
        inference_stats=pb.InferStatistics(
            success=duration("layerserve_requests_total ok", "layerserve_requests_seconds_total ok"),
            fail=duration("layerserve_requests_total failed", "layerserve_requests_seconds_total failed"),
            queue=duration("layerserve_queue_seconds_count", "layerserve_queue_seconds_sum"),
            compute_input=pb.StatisticDuration(count=requests),
            compute_infer=computed,
            compute_output=pb.StatisticDuration(count=requests),
        ),
    )

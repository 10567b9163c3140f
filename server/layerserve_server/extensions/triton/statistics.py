"""ModelStatistics from the server's metrics, so that it counts the requests of all processes."""

from __future__ import annotations

from collections.abc import Collection

from prometheus_client import CollectorRegistry

from layerserve_server.observability.totals import Totals
from layerserve_server.protocols.inference import inference_pb2 as pb

Version = tuple[str, int]


def statistics(registry: CollectorRegistry, versions: Collection[Version]) -> list[pb.ModelStatistics]:
    """Returns the counts and times of versions since the server started."""
    totals = Totals(registry.collect())
    return [_statistics(totals, name, str(version)) for name, version in versions]


def _statistics(totals: Totals, name: str, number: str) -> pb.ModelStatistics:
    counts = totals.counts((name, number))

    def duration(count: float, seconds: float) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=int(count), ns=round(seconds * 1e9))

    return pb.ModelStatistics(
        name=name,
        version=number,
        inference_count=int(counts.rows),
        execution_count=int(counts.batches),
        inference_stats=pb.InferStatistics(
            success=duration(counts.answered, counts.answered_seconds),
            fail=duration(counts.failed, counts.failed_seconds),
            queue=duration(counts.queued, counts.queue_seconds),
            compute_input=duration(counts.batched, 0.0),
            compute_infer=duration(counts.batched, counts.computed_seconds),
            compute_output=duration(counts.batched, 0.0),
        ),
    )

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
    version = name, number

    def duration(count: float, seconds: float) -> pb.StatisticDuration:
        return pb.StatisticDuration(count=int(count), ns=round(seconds * 1e9))

    def ended(ok: bool) -> pb.StatisticDuration:
        counts, seconds = (
            sum(value for status, value in totals.by_status(sample, version).items() if (status == "OK") is ok)
            for sample in ("layerserve_requests_total", "layerserve_requests_seconds_total")
        )
        return duration(counts, seconds)

    requests = totals.of("layerserve_batch_requests_total", version)
    queued = totals.of("layerserve_queue_seconds_count", version), totals.of("layerserve_queue_seconds_sum", version)
    return pb.ModelStatistics(
        name=name,
        version=number,
        inference_count=int(totals.of("layerserve_rows_total", version)),
        execution_count=int(totals.of("layerserve_compute_seconds_count", version)),
        inference_stats=pb.InferStatistics(
            success=ended(True),
            fail=ended(False),
            queue=duration(*queued),
            compute_input=duration(requests, 0.0),
            compute_infer=duration(requests, totals.computed_seconds(version)),
            compute_output=duration(requests, 0.0),
        ),
    )

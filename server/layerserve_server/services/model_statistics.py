"""What models have done, from the server's metrics, so that it counts the predictions of all processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from layerserve.v1 import models_pb2
from prometheus_client.core import Metric

from layerserve_server.observability.metrics import PREDICTING
from layerserve_server.observability.totals import Totals


def model_statistics(families: Iterable[Metric]) -> list[models_pb2.ModelStatistics]:
    """Returns the counts and times of all models that have metrics, by name, each added up over its versions."""
    collected = tuple(families)
    totals = Totals(collected)
    times = _request_times(collected)
    numbers: defaultdict[str, list[str]] = defaultdict(list)
    for name, number in totals.versions:
        numbers[name].append(number)
    return [_statistics(totals, name, numbers[name], times.get(name, {})) for name in sorted(numbers)]


def _statistics(
    totals: Totals, name: str, numbers: Iterable[str], times: Mapping[float, float]
) -> models_pb2.ModelStatistics:
    versions = [totals.counts((name, number)) for number in numbers]

    def total(*fields: str) -> float:
        return sum((getattr(one, field) for one in versions for field in fields), 0.0)

    return models_pb2.ModelStatistics(
        name=name,
        answered=int(total("answered")),
        failed=int(total("failed")),
        rows=int(total("rows")),
        batches=int(total("batches")),
        request_seconds=total("answered_seconds", "failed_seconds"),
        queue_seconds=total("queue_seconds"),
        queued=int(total("queued")),
        compute_seconds=total("compute_seconds"),
        waiting_requests=int(total("waiting_requests")),
        waiting_rows=int(total("waiting_rows")),
        request_times=_buckets(times),
    )


def _request_times(families: Iterable[Metric]) -> Mapping[str, Mapping[float, float]]:
    """Returns the cumulative numbers of calls that run models, by model and upper bound in seconds."""
    found: defaultdict[str, defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    for family in families:
        if family.name == "layerserve_request_seconds":
            for sample in family.samples:
                if "le" in sample.labels and sample.labels["method"] in PREDICTING:
                    found[sample.labels["model"]][float(sample.labels["le"])] += sample.value
    return found


def _buckets(cumulative: Mapping[float, float]) -> list[models_pb2.TimeBucket]:
    buckets, before = [], 0.0
    for bound in sorted(cumulative):
        count = int(cumulative[bound] - before)
        before = cumulative[bound]
        buckets.append(models_pb2.TimeBucket(max_seconds=bound, count=count))
    return buckets

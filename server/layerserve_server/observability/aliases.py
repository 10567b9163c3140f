"""The server's metrics under the names that Triton and TensorFlow Serving give to theirs, for existing dashboards.

They are computed from the server's own metrics whenever a page is read. Their type is "unknown": the text formats of
Prometheus only allow counters whose names end in `_total`, and these don't.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from layerserve_server.observability.totals import Totals, counted

#: Statuses -> Triton's reasons of a failure. All others are OTHER.
REASONS: Final = {
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}
MICROSECONDS = 1e6
#: Prefix of TensorFlow Serving's names.
SERVING = ":tensorflow:serving:"
#: Own histogram -> name, text, labels (`{model}` is replaced), and the factor of its values. The bounds of the buckets
#: are ours.
_HISTOGRAMS: Final = {
    "layerserve_request_seconds": (
        "request_latency",
        "Time from receiving a request to sending its reply, in microseconds.",
        {"model_name": "{model}", "API": "Predict", "entrypoint": "GRPC"},
        MICROSECONDS,
    ),
    "layerserve_compute_seconds": (
        "runtime_latency",
        "Time to compute a batch, in microseconds.",
        {"model_name": "{model}", "API": "Predict", "runtime": "layerserve"},
        MICROSECONDS,
    ),
    "layerserve_queue_seconds": (
        "batching_session:queuing_latency",
        "Time that a request waited in the queue, in microseconds.",
        {"thread_pool_name": "{model}"},
        MICROSECONDS,
    ),
    "layerserve_batch_rows": (
        "batching_session:processed_batch_size",
        "Number of rows per batch.",
        {"thread_pool_name": "{model}"},
        1.0,
    ),
}
#: Own histogram -> that of the requests of streams, which ours don't count as calls.
STREAMED: Final = {"layerserve_request_seconds": "layerserve_streamed_request_seconds"}


class Extended(CollectorRegistry):
    """The metrics of a registry, and others that are computed from them."""

    def __init__(
        self, own: CollectorRegistry, more: Callable[[Sequence[Metric]], Iterable[Metric]], *, alone: bool = False
    ) -> None:
        """With `alone`, only the computed ones."""
        super().__init__()
        self._own, self._more, self._alone = own, more, alone

    def collect(self) -> Iterator[Metric]:
        """Yields the metrics. Called when a page is read."""
        own = list(self._own.collect())
        if not self._alone:
            yield from own
        yield from self._more(own)


def triton(families: Sequence[Metric]) -> list[Metric]:
    """Returns Triton's metrics of all versions."""
    totals = Totals(families)

    def metric(name: str, text: str) -> Metric:
        return Metric(f"nv_inference_{name}", text, "unknown")

    success = metric("request_success", "Number of successful requests.")
    failure = metric("request_failure", "Number of failed requests, by reason.")
    rows = metric("count", "Number of rows computed.")
    batches = metric("exec_count", "Number of batches computed.")
    request = metric("request_duration_us", "Total time of successful requests, in microseconds.")
    queue = metric("queue_duration_us", "Total time of requests in the queue, in microseconds.")
    before = metric("compute_input_duration_us", "Always 0: included in the request's time.")
    compute = metric("compute_infer_duration_us", "Total time of requests in computation, in microseconds.")
    after = metric("compute_output_duration_us", "Always 0: included in the request's time.")
    pending = Metric("nv_inference_pending_request_count", "Number of requests in the queue.", "gauge")
    for version in totals.versions:
        labels = {"model": version[0], "version": version[1]}
        seconds = totals.by_status("layerserve_requests_seconds_total", version).get("OK", 0.0)
        values = [
            (success, totals.by_status("layerserve_requests_total", version).get("OK", 0.0)),
            (rows, totals.of("layerserve_rows_total", version)),
            (batches, totals.of("layerserve_compute_seconds_count", version)),
            (request, seconds * MICROSECONDS),
            (queue, totals.of("layerserve_queue_seconds_sum", version) * MICROSECONDS),
            (before, 0.0),
            (compute, totals.computed_seconds(version) * MICROSECONDS),
            (after, 0.0),
            (pending, totals.of("layerserve_queue_requests", version)),
        ]
        for family, value in values:
            family.add_sample(family.name, labels, value)
        reasons = dict.fromkeys((*dict.fromkeys(REASONS.values()), "OTHER"), 0.0)
        for status, value in totals.by_status("layerserve_requests_total", version).items():
            if status != "OK":
                reasons[REASONS.get(status, "OTHER")] += value
        for reason, value in reasons.items():
            failure.add_sample(failure.name, {**labels, "reason": reason}, value)
    return [success, failure, rows, batches, request, queue, before, compute, after, pending]


def tensorflow_serving(families: Sequence[Metric]) -> list[Metric]:
    """Returns TensorFlow Serving's metrics of all models."""
    totals = Totals(families)
    requests = Metric(f"{SERVING}request_count", "Number of requests, by status.", "unknown")
    examples = Metric(f"{SERVING}request_example_count_total", "Number of rows computed.", "unknown")
    runs = Metric(f"{SERVING}batching_session:wrapped_run_count", "Number of batches computed.", "unknown")
    by_status: defaultdict[tuple[str, str], float] = defaultdict(float)
    rows: defaultdict[str, float] = defaultdict(float)
    batches = 0.0
    for version in totals.versions:
        model = version[0]
        for status, value in totals.by_status("layerserve_requests_total", version).items():
            by_status[model, status] += value
        rows[model] += totals.of("layerserve_rows_total", version)
        batches += totals.of("layerserve_compute_seconds_count", version)
    for (model, status), value in by_status.items():
        requests.add_sample(requests.name, {"model_name": model, "status": status}, value)
    for model, value in rows.items():
        examples.add_sample(examples.name, {"model": model}, value)
    runs.add_sample(runs.name, {}, batches)
    named = {family.name: family for family in families}
    return [requests, examples, runs, *(_histogram(own, named) for own in _HISTOGRAMS)]


def _histogram(own: str, families: Mapping[str, Metric]) -> Metric:
    """Returns one of TensorFlow Serving's histograms, with the versions of a model added up, and streamed requests."""
    name, text, labels, factor = _HISTOGRAMS[own]
    sums: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    for family in (families[one] for one in (own, STREAMED.get(own, "")) if one in families):
        for sample in family.samples:
            model = sample.labels.get("model")
            if not model or not counted(sample):
                continue
            part = sample.name.removeprefix(family.name)
            bound = sample.labels.get("le", "")
            if bound not in ("", "+Inf"):
                bound = str(round(float(bound) * factor, 3))
            sums[model, part, bound] += sample.value * (factor if part == "_sum" else 1.0)
    metric = Metric(SERVING + name, text, "histogram")
    for (model, part, bound), value in sums.items():
        filled = {key: label.replace("{model}", model) for key, label in labels.items()}
        metric.add_sample(metric.name + part, {**filled, "le": bound} if bound else filled, value)
    return metric

"""The server's metrics under the names that TensorFlow Serving gives to its own, computed when a page is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from layerserve_server.observability.collectors import Extended
from layerserve_server.observability.totals import Totals, counted
from layerserve_server.transport.probes import MetricPage

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


def page(own: CollectorRegistry) -> MetricPage:
    """Returns the page of metrics that are computed from the server's own."""
    return MetricPage(Extended(own, tensorflow_serving, alone=True), ("model", "model_name", "thread_pool_name"))


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

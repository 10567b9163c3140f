"""Triton's metrics, computed from the server's own.

Their type is "unknown": the text formats of Prometheus only allow counters whose names end in `_total`, and these
don't.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from prometheus_client.core import Metric

from layerserve_server.observability.totals import Totals

#: Statuses -> Triton's reasons of a failure. All others are OTHER.
REASONS: Final = {
    "RESOURCE_EXHAUSTED": "REJECTED",
    "DEADLINE_EXCEEDED": "REJECTED",
    "CANCELLED": "CANCELED",
    "INTERNAL": "BACKEND",
}
MICROSECONDS = 1e6


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
        counts = totals.counts(version)
        values = [
            (success, counts.answered),
            (rows, counts.rows),
            (batches, counts.batches),
            (request, counts.answered_seconds * MICROSECONDS),
            (queue, counts.queue_seconds * MICROSECONDS),
            (before, 0.0),
            (compute, counts.computed_seconds * MICROSECONDS),
            (after, 0.0),
            (pending, counts.waiting_requests),
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

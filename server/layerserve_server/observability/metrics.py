"""All Prometheus metrics of the server. No metric contains tensor data."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from layerserve_server.observability.buffer import Buffer
from layerserve_server.observability.collectors import CollectHooks, CountsCollector
from layerserve_server.observability.families import (
    BatchFamilies,
    CallFamilies,
    Families,
    RunFamilies,
    VersionFamilies,
)
from layerserve_server.observability.histograms import Histogram
from layerserve_server.transport.call import FORWARDED, Ended

#: Names of the methods that run a model once, as in the label `method`. Requests of streams are counted by themselves.
PREDICTING = frozenset({"Predict", "ModelInfer", "http:Predict", "http:ModelInfer"})
#: Number of models that are gone whose series are kept: for scrapers, which haven't read the last counts yet, and since
#: calls and runs of them may still end.
MAX_GONE = 64


class Metrics:
    """The metrics of one server, in their own registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._hooks = CollectHooks(self.registry, self._flush)
        self._began: Buffer[tuple[str, int]] = Buffer(self._count_began)
        self._ended: Buffer[Ended] = Buffer(self._count_ended)
        self._streamed: Buffer[Ended] = Buffer(self._count_streamed)
        #: Batch metrics by model and version.
        self._batch_metrics: dict[tuple[str, str], BatchMetrics] = {}
        # Finding a child by its labels takes longer than counting, so those that every call uses are cached.
        self._answered: dict[tuple[str, str, str, str], tuple[Counter, Counter, Histogram]] = {}
        self._open: dict[str, Gauge] = {}
        #: Makes further metrics, whose series go with their version or model.
        families = self.families = Families(self.registry)
        #: Label names by metric name, for the documentation.
        self.labels = families.labels
        #: Models that are gone and have series, the oldest first.
        self._gone: dict[str, None] = {}
        self._gone_lock = threading.Lock()
        self._calls = CallFamilies(families)
        self._batches = BatchFamilies(families)
        self._versions = VersionFamilies(families)
        self._stale = families.gauge(
            "access_stale",
            "Number of processes that couldn't read a changed file, or keys of tokens, and use what they read before.",
            ("what",),
        )
        self._runs = RunFamilies(families)

    def telemetry_dropped(self, kind: str, count: int) -> None:
        """Counts what was lost because too much waited: lines of the "access_log", "traces", "samples"."""
        self._calls.dropped.labels(kind).inc(count)

    # Calls (see transport.call.Observer).

    def calls_began(self, method: str, count: int) -> None:
        """Counts `count` calls of a method that arrived."""
        self._began.add(((method, count),), shared=count > 1)

    def calls_ended(self, calls: Sequence[Ended]) -> None:
        """Counts calls that ended."""
        self._ended.add(calls, shared=len(calls) > 1)

    def _count_began(self, began: Sequence[tuple[str, int]]) -> None:
        counts: Tally[str] = Tally()
        for method, count in began:
            counts[method] += count
        for method, count in counts.items():
            self._calls_open(method).inc(count)

    def _count_ended(self, calls: Sequence[Ended]) -> None:
        for key, seconds in _seconds_by_key(calls).items():
            method, model, version, status = key
            self._calls_open(method).dec(len(seconds))
            if status == FORWARDED:
                continue
            metrics = self._answered.get(key)
            if metrics is None:
                name = _short(method)
                labels = name, model, version, status
                metrics = (
                    self._calls.requests.labels(*labels),
                    self._calls.requests_seconds.labels(*labels),
                    self._calls.request_seconds.labels(name, model),
                )
                self._answered[key] = metrics
            answered, total_seconds, request_seconds = metrics
            answered.inc(len(seconds))
            total_seconds.inc(sum(seconds))
            request_seconds.observe(seconds)
            if status != "OK":
                self._calls.errors.labels(_short(method), model, version, status).inc(len(seconds))
        # Afterwards, so that no bucket has an exemplar without a value.
        for call in calls:
            if call.trace_id:
                self._calls.request_seconds.labels(_short(call.method), call.model).exemplify(
                    call.seconds, call.trace_id
                )

    def streamed(self, requests: Sequence[Ended]) -> None:
        """Counts requests of a stream that were answered."""
        self._streamed.add(requests, shared=False)

    def _count_streamed(self, requests: Sequence[Ended]) -> None:
        for key, seconds in _seconds_by_key(requests).items():
            labels = _short(key[0]), *key[1:]
            self._calls.streamed_requests.labels(*labels).inc(len(seconds))
            self._calls.streamed_seconds.labels(*labels).inc(sum(seconds))
            self._calls.streamed_request_seconds.labels(*labels[:2]).observe(seconds)

    def before_collect(self, report: Callable[[], None]) -> None:
        """Registers a callback that runs before metrics are collected."""
        self._hooks.add(report)

    def _calls_open(self, method: str) -> Gauge:
        gauge = self._open.get(method)
        if gauge is None:
            gauge = self._open[method] = self._calls.in_flight.labels(_short(method))
        return gauge

    def _flush(self) -> None:
        # Ended calls first: otherwise a call that ends in between would be counted as ended but not as begun.
        self._ended.flush()
        self._began.flush()
        self._streamed.flush()
        for batches in tuple(self._batch_metrics.values()):
            batches.flush()

    # Batches.

    def batches(self, model: str, version: int) -> BatchMetrics:
        """Returns the batch metrics of a version (see inference.batching.BatchObserver)."""
        labels = (model, str(version))
        made = self._batch_metrics.get(labels)
        # A version whose file has changed is loaded again: both count into the same series.
        if made is None:
            made = self._batch_metrics[labels] = BatchMetrics(
                self._batches.rows.labels(*labels),
                self._batches.requests.labels(*labels),
                self._batches.sizes.labels(*labels),
                self._batches.compute_seconds.labels(*labels),
                self._batches.queue_seconds.labels(*labels),
            )
        return made

    def watch_queue(self, model: str, version: int, rows: Callable[[], int], requests: Callable[[], int]) -> None:
        """Sets the callbacks that return the numbers of queued rows and requests of a version."""
        self._batches.queue_rows.labels(model, str(version)).set_function(rows)
        self._batches.queue_requests.labels(model, str(version)).set_function(requests)

    def watch_memory(self, buffered: Callable[[], int], limit: int) -> None:
        """Sets the callback that returns the memory in use for clients' messages, and its limit, in bytes."""
        text = "Memory used by requests, messages in transit and unread replies, in bytes."
        self.families.gauge("buffered_bytes", text).set_function(buffered)
        self.families.gauge("buffered_limit_bytes", "Limit of that memory, in bytes.").set(limit)

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        """Sets the callback that returns whether clients should use this server."""
        text = "1 while health is SERVING, 0 while the server starts or drains."
        self.families.gauge("ready", text).set_function(ready)

    def watch_loaded(self, loaded: Callable[[], int]) -> None:
        """Sets the callback that returns the memory of loaded versions, in bytes."""
        text = "Memory of loaded models: weights, the engines' copies of them, and graphs, in bytes."
        self.families.gauge("loaded_bytes", text).set_function(loaded)

    def access_reread(self, what: str, ok: bool) -> None:
        """Sets whether a file, such as "tokens" or "certificate", could be read after a change."""
        self._stale.labels(what).set(not ok)

    def watch_versions(self, states: Callable[[], Mapping[tuple[str, ...], int]]) -> None:
        """Sets the callback that returns the number of versions by model and state."""
        text = "Number of versions on disk, by state."
        self.labels["layerserve_model_versions"] = ("model", "state")
        self.registry.register(CountsCollector("layerserve_model_versions", text, ("model", "state"), states))

    # Loads.

    def version_loaded(self, model: str, version: int, seconds: float) -> None:
        """Counts a version that was loaded in `seconds`."""
        self._returned(model)
        self._versions.loaded.labels(model, str(version)).set(1)
        self._versions.loads.labels(model).inc()
        self._versions.load_seconds.labels(model).observe((seconds,))

    def version_failed(self, model: str, version: int) -> None:
        """Counts a version that failed to load."""
        self._returned(model)
        self._versions.load_failures.labels(model).inc()

    def version_evicted(self, model: str) -> None:
        """Counts a version that was unloaded to make room."""
        self._versions.evictions.labels(model).inc()

    def load_awaited(self, outcome: str, seconds: float) -> None:
        """Counts a call that waited for `seconds` until a version was loaded, or was refused."""
        self._versions.load_waits.labels(outcome).observe((seconds,))

    def settings_invalid(self, model: str) -> None:
        """Counts a settings file that is invalid."""
        self._versions.settings_errors.labels(model).inc()

    def version_released(self, model: str, version: int) -> None:
        """Removes the time series of a version that was freed: those of a model trained every day would accumulate."""
        # Calls counted after the removal would create the series again.
        self._flush()
        self._batch_metrics.pop((model, str(version)), None)
        # Train ends after the run's base version was released: what it counted then is removed with a later version.
        ended = {key[2] for key in tuple(self._answered) if key[1] == model and key[2]}
        for gone in {str(version), *ended}:
            if (model, gone) not in self._batch_metrics:
                for key in [key for key in tuple(self._answered) if key[1:3] == (model, gone)]:
                    self._answered.pop(key, None)
                self.families.remove(model, gone)

    def model_gone(self, model: str) -> None:
        """Removes the time series of models that are gone, except the last ones: those of ever new names would
        accumulate.
        """
        with self._gone_lock:
            self._gone.pop(model, None)
            self._gone[model] = None
            oldest = next(iter(self._gone)) if len(self._gone) > MAX_GONE else None
            if oldest is not None:
                del self._gone[oldest]
        if oldest is not None:
            self._remove_model(oldest)

    def _returned(self, model: str) -> None:
        with self._gone_lock:
            self._gone.pop(model, None)

    def _remove_model(self, model: str) -> None:
        # Calls counted after the removal would create the series again.
        self._flush()
        for key in [key for key in tuple(self._batch_metrics) if key[0] == model]:
            self._batch_metrics.pop(key, None)
        for answered in [key for key in tuple(self._answered) if key[1] == model]:
            self._answered.pop(answered, None)
        self.families.remove(model)

    # Training.

    def runs_changed(self, queued: int, running: int, paused: int) -> None:
        """Sets the numbers of queued, of running and of paused training runs."""
        self._runs.active.labels("queued").set(queued)
        self._runs.active.labels("running").set(running)
        self._runs.active.labels("paused").set(paused)

    def run_progressed(self, model: str, epoch: int, step: int, loss: float | None) -> None:
        """Sets a model's training progress. Epoch and step count from 1."""
        self._runs.epoch.labels(model).set(epoch)
        self._runs.step.labels(model).set(step)
        if loss is not None:
            self._runs.loss.labels(model).set(loss)

    def run_ended(self, model: str, state: str) -> None:
        """Counts a training run that ended in `state`."""
        self._runs.ended.labels(model, state).inc()


class BatchMetrics:
    """The batch metrics of one version. Their labels are resolved once."""

    def __init__(
        self,
        rows: Counter,
        requests: Counter,
        batch_rows: Histogram,
        seconds: Histogram,
        queue_seconds: Histogram,
    ) -> None:
        self._rows = rows
        self._requests = requests
        self._batch_rows = batch_rows
        self._seconds = seconds
        self._ran: Buffer[tuple[int, int, float]] = Buffer(self._count_ran)
        self._waited: Buffer[float] = Buffer(queue_seconds.observe)

    def batch_ran(self, rows: int, requests: int, seconds: float) -> None:
        """Counts a batch of `rows` rows from `requests` requests that took `seconds` to compute."""
        self._ran.add(((rows, requests, seconds),), shared=requests > 1)

    def requests_waited(self, seconds: Sequence[float]) -> None:
        """Counts the times, in seconds, that requests spent in the queue."""
        self._waited.add(seconds, shared=len(seconds) > 1)

    def flush(self) -> None:
        """Counts all buffered observations."""
        self._ran.flush()
        self._waited.flush()

    def _count_ran(self, batches: Sequence[tuple[int, int, float]]) -> None:
        rows, requests, seconds = zip(*batches, strict=True)
        self._rows.inc(sum(rows))
        self._requests.inc(sum(requests))
        self._batch_rows.observe(rows)
        self._seconds.observe(seconds)


def _seconds_by_key(calls: Sequence[Ended]) -> dict[tuple[str, str, str, str], list[float]]:
    """Returns the times of calls by method, model, version and status, which are the same for nearly all."""
    found: dict[tuple[str, str, str, str], list[float]] = {}
    for call in calls:
        found.setdefault(call[:4], []).append(call.seconds)
    return found


def _short(method: str) -> str:
    """Returns the last part of a full method name: "Predict" of "/layerserve.v1.PredictionService/Predict"."""
    return method.rpartition("/")[2]

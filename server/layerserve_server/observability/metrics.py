"""All Prometheus metrics of the server. No metric contains tensor data."""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from layerserve_server.observability.buffer import Buffer
from layerserve_server.observability.histograms import Histogram, HistogramFamily
from layerserve_server.transport.call import Ended

#: Buckets from 100 microseconds (a small network) to seconds (a large batch), about 2.5 times apart.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Powers of two, the usual batch sizes.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: From the rounding of 32 bits to other answers.
DIFFERENCES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0)
#: Loading reads files from kilobytes to gigabytes.
LOAD_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)

F = TypeVar("F", Counter, Gauge, HistogramFamily)

VERSION = ("model", "version")
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
        #: Labels of the series of streamed requests: method, model, version and status.
        self._streamed_labels: set[tuple[str, str, str, str]] = set()
        #: Label names by metric name, for the documentation.
        self.labels: dict[str, tuple[str, ...]] = {}
        #: Metrics with a label for the model, with their label names.
        self._of_models: list[tuple[Counter | Gauge | HistogramFamily, tuple[str, ...]]] = []
        #: Models that are gone and have series, the oldest first.
        self._gone: dict[str, None] = {}
        self._gone_lock = threading.Lock()

        def kept(family: F, labels: tuple[str, ...]) -> F:
            if "model" in labels:
                self._of_models.append((family, labels))
            return family

        def named(name: str, labels: tuple[str, ...]) -> str:
            self.labels[f"layerserve_{name}"] = labels
            return f"layerserve_{name}"

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return kept(Counter(named(name, labels), text, labels, registry=self.registry), labels)

        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Gauge:
            return kept(Gauge(named(name, labels), text, labels, registry=self.registry), labels)

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> HistogramFamily:
            return kept(HistogramFamily(named(name, labels), text, labels, buckets, self.registry), labels)

        self._requests = counter(
            "requests",
            "Number of finished calls, by status. The model is empty if none was found.",
            ("method", *VERSION, "status"),
        )
        self._requests_seconds = counter(
            "requests_seconds",
            "Total time of finished calls from receiving them to sending the reply, in seconds, by status.",
            ("method", *VERSION, "status"),
        )
        self._streamed_requests = counter(
            "streamed_requests",
            "Number of requests of streams that were answered, by status.",
            ("method", *VERSION, "status"),
        )
        self._streamed_seconds = counter(
            "streamed_requests_seconds",
            "Total time of these requests from receiving them to having the reply, in seconds.",
            ("method", *VERSION, "status"),
        )
        self._streamed_request_seconds = histogram(
            "streamed_request_seconds",
            "Time from receiving a request of a stream to having its reply, in seconds.",
            ("method", "model"),
            SECONDS,
        )
        self._errors = counter(
            "errors", "Number of calls that finished with a status other than OK.", ("method", *VERSION, "status")
        )
        self._request_seconds = histogram(
            "request_seconds",
            "Time from receiving a call to sending its reply, in seconds.",
            ("method", "model"),
            SECONDS,
        )
        self._dropped = counter(
            "telemetry_dropped",
            "Number of lines of the access log, traces, or samples of requests that were lost because too many waited.",
            ("kind",),
        )
        self._in_flight = gauge("calls_in_flight", "Number of calls in progress.", ("method",))

        self._rows = counter("rows", "Number of rows computed.", VERSION)
        self._batches = histogram("batch_rows", "Number of rows per batch.", VERSION, ROWS)
        self._joined = counter(
            "batch_requests", "Number of requests, or parts of split requests, that ran in batches.", VERSION
        )
        self._queue_seconds = histogram(
            "queue_seconds", "Time that a request waited in the queue, in seconds.", VERSION, SECONDS
        )
        self._compute_seconds = histogram("compute_seconds", "Time to compute a batch, in seconds.", VERSION, SECONDS)
        self._queue_rows = gauge("queue_rows", "Number of rows in the queue.", VERSION)
        self._queue_requests = gauge("queue_requests", "Number of requests in the queue.", VERSION)

        self._loaded = gauge("model_loaded", "1 for each version in memory.", VERSION)
        self._shadowed = counter(
            "shadow_requests",
            "Number of requests that were chosen for a shadow version, by outcome: its results are 'equal' within the "
            "tolerances or 'different', it 'failed', or there was no time or memory ('dropped').",
            (*VERSION, "outcome"),
        )
        self._shadow_absolute = histogram(
            "shadow_absolute_difference",
            "Largest difference of a request's outputs from the shadow version's.",
            VERSION,
            DIFFERENCES,
        )
        self._shadow_relative = histogram(
            "shadow_relative_difference",
            "Largest difference of a request's outputs from the shadow version's, relative to the largest value.",
            VERSION,
            DIFFERENCES,
        )
        #: Metrics whose labels are the model and the version.
        self._of_versions = (
            *(self._shadow_absolute, self._shadow_relative),
            *(self._rows, self._batches, self._joined, self._queue_seconds, self._compute_seconds),
            *(self._queue_rows, self._queue_requests, self._loaded),
        )
        self._loads = counter("model_loads", "Number of versions that were loaded.", ("model",))
        self._load_failures = counter("model_load_failures", "Number of versions that failed to load.", ("model",))
        self._evictions = counter(
            "model_evictions", "Number of versions that were unloaded to make room for others.", ("model",)
        )
        self._load_waits = histogram(
            "model_load_wait_seconds",
            "Time that calls waited until a version was loaded, in seconds.",
            ("outcome",),
            LOAD_SECONDS,
        )
        self._settings_errors = counter(
            "model_settings_errors", "Number of times that a model's settings file was invalid.", ("model",)
        )
        self._load_seconds = histogram(
            "model_load_seconds", "Time to load a version, in seconds.", ("model",), LOAD_SECONDS
        )

        self._stale = gauge(
            "access_stale",
            "Number of processes that couldn't read a changed file, or keys of tokens, and use what they read before.",
            ("what",),
        )

        self._runs = gauge(
            "training_runs", "Number of training runs that are queued, running or paused, by state.", ("state",)
        )
        self._runs_ended = counter(
            "training_runs_ended", "Number of training runs that ended, by state.", ("model", "state")
        )
        self._run_epoch = gauge("training_epoch", "Current epoch of the newest run of a model, from 1.", ("model",))
        self._run_step = gauge("training_step", "Current step of that epoch, from 1.", ("model",))
        self._run_loss = gauge("training_loss", "Most recent loss of that run.", ("model",))

    def telemetry_dropped(self, kind: str, count: int) -> None:
        """Counts what was lost because too much waited: lines of the "access_log", "traces", "samples"."""
        self._dropped.labels(kind).inc(count)

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
            metrics = self._answered.get(key)
            if metrics is None:
                name = _short(method)
                labels = name, model, version, status
                metrics = (
                    self._requests.labels(*labels),
                    self._requests_seconds.labels(*labels),
                    self._request_seconds.labels(name, model),
                )
                self._answered[key] = metrics
            answered, total_seconds, request_seconds = metrics
            answered.inc(len(seconds))
            total_seconds.inc(sum(seconds))
            request_seconds.observe(seconds)
            if status != "OK":
                self._errors.labels(_short(method), model, version, status).inc(len(seconds))
        # Afterwards, so that no bucket has an exemplar without a value.
        for call in calls:
            if call.trace_id:
                self._request_seconds.labels(_short(call.method), call.model).exemplify(call.seconds, call.trace_id)

    def streamed(self, requests: Sequence[Ended]) -> None:
        """Counts requests of a stream that were answered."""
        self._streamed.add(requests, shared=False)

    def _count_streamed(self, requests: Sequence[Ended]) -> None:
        for key, seconds in _seconds_by_key(requests).items():
            labels = _short(key[0]), *key[1:]
            self._streamed_labels.add(labels)
            self._streamed_requests.labels(*labels).inc(len(seconds))
            self._streamed_seconds.labels(*labels).inc(sum(seconds))
            self._streamed_request_seconds.labels(*labels[:2]).observe(seconds)

    def before_collect(self, report: Callable[[], None]) -> None:
        """Registers a callback that runs before metrics are collected."""
        self._hooks.add(report)

    def _calls_open(self, method: str) -> Gauge:
        gauge = self._open.get(method)
        if gauge is None:
            gauge = self._open[method] = self._in_flight.labels(_short(method))
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
                self._rows.labels(*labels),
                self._joined.labels(*labels),
                self._batches.labels(*labels),
                self._compute_seconds.labels(*labels),
                self._queue_seconds.labels(*labels),
            )
        return made

    def watch_queue(self, model: str, version: int, rows: Callable[[], int], requests: Callable[[], int]) -> None:
        """Sets the callbacks that return the numbers of queued rows and requests of a version."""
        self._queue_rows.labels(model, str(version)).set_function(rows)
        self._queue_requests.labels(model, str(version)).set_function(requests)

    def watch_memory(self, buffered: Callable[[], int], limit: int) -> None:
        """Sets the callback that returns the memory in use for clients' messages, and its limit, in bytes."""
        text = "Memory used by requests, messages in transit and unread replies, in bytes."
        Gauge("layerserve_buffered_bytes", text, registry=self.registry).set_function(buffered)
        text = "Limit of that memory, in bytes."
        Gauge("layerserve_buffered_limit_bytes", text, registry=self.registry).set(limit)

    def watch_ready(self, ready: Callable[[], bool]) -> None:
        """Sets the callback that returns whether clients should use this server."""
        text = "1 while health is SERVING, 0 while the server starts or drains."
        Gauge("layerserve_ready", text, registry=self.registry).set_function(ready)

    def watch_loaded(self, loaded: Callable[[], int]) -> None:
        """Sets the callback that returns the memory of loaded versions, in bytes."""
        text = "Memory of loaded models: weights, the engines' copies of them, and graphs, in bytes."
        Gauge("layerserve_loaded_bytes", text, registry=self.registry).set_function(loaded)

    def access_reread(self, what: str, ok: bool) -> None:
        """Sets whether "tokens", "keys" or "certificate" could be read after a change."""
        self._stale.labels(what).set(not ok)

    def watch_versions(self, states: Callable[[], Mapping[tuple[str, ...], int]]) -> None:
        """Sets the callback that returns the number of versions by model and state."""
        text = "Number of versions on disk, by state."
        self.labels["layerserve_model_versions"] = ("model", "state")
        self.registry.register(CountsCollector("layerserve_model_versions", text, ("model", "state"), states))

    # Shadow versions (see services.prediction.shadow.ShadowObserver).

    def shadowed(self, model: str, version: int, outcome: str) -> None:
        """Counts a request that was chosen for a shadow version."""
        self._shadowed.labels(model, str(version), outcome).inc()

    def shadow_differed(self, model: str, version: int, absolute: float, relative: float) -> None:
        """Counts the largest differences of a request's outputs."""
        self._shadow_absolute.labels(model, str(version)).observe((absolute,))
        self._shadow_relative.labels(model, str(version)).observe((relative,))

    # Loads (see repository.residents.RepositoryObserver).

    def version_loaded(self, model: str, version: int, seconds: float) -> None:
        """Counts a version that was loaded in `seconds`."""
        self._returned(model)
        self._loaded.labels(model, str(version)).set(1)
        self._loads.labels(model).inc()
        self._load_seconds.labels(model).observe((seconds,))

    def version_failed(self, model: str, version: int) -> None:
        """Counts a version that failed to load."""
        self._returned(model)
        self._load_failures.labels(model).inc()

    def version_evicted(self, model: str) -> None:
        """Counts a version that was unloaded to make room."""
        self._evictions.labels(model).inc()

    def load_awaited(self, outcome: str, seconds: float) -> None:
        """Counts a call that waited for `seconds` until a version was loaded, or was refused."""
        self._load_waits.labels(outcome).observe((seconds,))

    def settings_invalid(self, model: str) -> None:
        """Counts a settings file that is invalid."""
        self._settings_errors.labels(model).inc()

    def version_released(self, model: str, version: int) -> None:
        """Removes the time series of a version that was freed: those of a model trained every day would accumulate."""
        labels = (model, str(version))
        # Calls counted after the removal would create the series again.
        self._flush()
        self._batch_metrics.pop(labels, None)
        for family in self._of_versions:
            with suppress(KeyError):  # has no such series
                family.remove(*labels)
        for outcome in ("equal", "different", "failed", "dropped"):
            with suppress(KeyError):
                self._shadowed.remove(*labels, outcome)
        # Train ends after the run's base version was released: what it counted then is removed with a later version.
        released = [key for key in tuple(self._answered) if key[1] == model and key[2]]
        for key in [key for key in released if key[1:3] not in self._batch_metrics]:
            del self._answered[key]
            method, *_, status = key
            for counter in (self._requests, self._requests_seconds, self._errors):
                with suppress(KeyError):
                    counter.remove(_short(method), *key[1:3], status)
        for streamed in [found for found in tuple(self._streamed_labels) if found[1:3] == labels]:
            self._streamed_labels.discard(streamed)
            for counter in (self._streamed_requests, self._streamed_seconds):
                counter.remove(*streamed)

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
        for streamed in [key for key in tuple(self._streamed_labels) if key[1] == model]:
            self._streamed_labels.discard(streamed)
        for family, names in self._of_models:
            found = {
                tuple(sample.labels[name] for name in names)
                for metric in family.collect()
                for sample in metric.samples
                if sample.labels["model"] == model
            }
            for labels in found:
                with suppress(KeyError):  # removed meanwhile, with a version
                    family.remove(*labels)

    # Training.

    def runs_changed(self, queued: int, running: int, paused: int) -> None:
        """Sets the numbers of queued, of running and of paused training runs."""
        self._runs.labels("queued").set(queued)
        self._runs.labels("running").set(running)
        self._runs.labels("paused").set(paused)

    def run_progressed(self, model: str, epoch: int, step: int, loss: float | None) -> None:
        """Sets a model's training progress. Epoch and step count from 1."""
        self._run_epoch.labels(model).set(epoch)
        self._run_step.labels(model).set(step)
        if loss is not None:
            self._run_loss.labels(model).set(loss)

    def run_ended(self, model: str, state: str) -> None:
        """Counts a training run that ended in `state`."""
        self._runs_ended.labels(model, state).inc()


class CollectHooks(Collector):
    """Callbacks that run before metrics are collected: the first collector of a registry, without metrics."""

    def __init__(self, registry: CollectorRegistry, last: Callable[[], None]) -> None:
        """`last` runs after all other callbacks."""
        self._hooks: list[Callable[[], None]] = []
        self._last = last
        registry.register(self)

    def add(self, hook: Callable[[], None]) -> None:
        """Adds a callback."""
        self._hooks.append(hook)

    def collect(self) -> Iterable[Metric]:
        """Runs the callbacks. Called by the registry."""
        for hook in self._hooks:
            hook()
        self._last()
        return ()


class CountsCollector(Collector):
    """A gauge whose values are counted when they are collected."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        counts: Callable[[], Mapping[tuple[str, ...], int]],
    ) -> None:
        """`counts` returns the values by label values."""
        self._name, self._text, self._labels, self._counts = name, text, labels, counts

    def collect(self) -> Iterable[Metric]:
        """Counts the values. Called by the registry."""
        family = GaugeMetricFamily(self._name, self._text, labels=self._labels)
        for labels, count in self._counts().items():
            family.add_metric(labels, count)
        yield family


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

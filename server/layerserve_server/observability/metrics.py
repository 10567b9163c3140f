"""Prometheus metrics: everything that is counted, in one place. No metric holds a tensor's content."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from layerserve_server.observability.buffer import Buffer
from layerserve_server.observability.histograms import Distribution, Distributions
from layerserve_server.transport.call import Ended

#: From a small network's 100 microseconds to a large batch's seconds, each about 2.5 times the one before.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Powers of two: what batches are sized by.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: Loading reads files: from a small one to gigabytes.
LOAD_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)

VERSION = ("model", "version")


class Metrics:
    """The metrics of one server, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._tellers = Tellers(self.registry, self._flush)
        self._began: Buffer[tuple[str, int]] = Buffer(self._count_began)
        self._ended: Buffer[Ended] = Buffer(self._count_ended)
        #: What counts the batches of versions, by name and version.
        self._batch_metrics: dict[tuple[str, str], BatchMetrics] = {}
        # Looking a child up by its labels costs more than counting: what every call needs is kept at hand.
        self._answered: dict[tuple[str, str, str, str], tuple[Counter, Distribution]] = {}
        self._open: dict[str, Gauge] = {}
        #: Labels of each metric, by its name, for the documentation.
        self.labels: dict[str, tuple[str, ...]] = {}

        def named(name: str, labels: tuple[str, ...]) -> str:
            self.labels[f"layerserve_{name}"] = labels
            return f"layerserve_{name}"

        def counter(name: str, text: str, labels: tuple[str, ...]) -> Counter:
            return Counter(named(name, labels), text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...]) -> Gauge:
            return Gauge(named(name, labels), text, labels, registry=self.registry)

        def histogram(name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> Distributions:
            return Distributions(named(name, labels), text, labels, buckets, self.registry)

        self._requests = counter(
            "requests",
            "Number of finished calls, by status. The model is empty if none was found.",
            ("method", *VERSION, "status"),
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

        self._loaded = gauge("model_loaded", "1 for each version in memory.", VERSION)
        #: What is counted by version only.
        self._of_versions = (
            *(self._rows, self._batches, self._joined, self._queue_seconds, self._compute_seconds),
            *(self._queue_rows, self._loaded),
        )
        self._loads = counter("model_loads", "Number of versions that were loaded.", ("model",))
        self._load_failures = counter("model_load_failures", "Number of versions that failed to load.", ("model",))
        self._load_seconds = histogram(
            "model_load_seconds", "Time to load a version, in seconds.", ("model",), LOAD_SECONDS
        )

        self._runs = gauge("training_runs", "Number of training runs that are queued or running, by state.", ("state",))
        self._runs_ended = counter(
            "training_runs_ended", "Number of training runs that ended, by state.", ("model", "state")
        )
        self._run_epoch = gauge("training_epoch", "Current epoch of the newest run of a model, from 1.", ("model",))
        self._run_step = gauge("training_step", "Current step of that epoch, from 1.", ("model",))
        self._run_loss = gauge("training_loss", "Most recent loss of that run.", ("model",))

    # Calls (see transport.call.Observer).

    def calls_began(self, method: str, count: int) -> None:
        """So many calls came in."""
        self._began.add(((method, count),), shared=count > 1)

    def calls_ended(self, calls: Sequence[Ended]) -> None:
        """These calls were answered."""
        self._ended.add(calls, shared=len(calls) > 1)

    def _count_began(self, began: Sequence[tuple[str, int]]) -> None:
        counts: Tally[str] = Tally()
        for method, count in began:
            counts[method] += count
        for method, count in counts.items():
            self._calls_open(method).inc(count)

    def _count_ended(self, calls: Sequence[Ended]) -> None:
        # Those of one method, model and status, as nearly all are, count together.
        seconds_by_key: dict[tuple[str, str, str, str], list[float]] = {}
        for call in calls:
            seconds_by_key.setdefault(call[:4], []).append(call.seconds)
        for key, seconds in seconds_by_key.items():
            method, model, version, status = key
            self._calls_open(method).dec(len(seconds))
            metrics = self._answered.get(key)
            if metrics is None:
                name = _short(method)
                metrics = self._requests.labels(name, model, version, status), self._request_seconds.labels(name, model)
                self._answered[key] = metrics
            answered, request_seconds = metrics
            answered.inc(len(seconds))
            request_seconds.observe(seconds)
            if status != "OK":
                self._errors.labels(_short(method), model, version, status).inc(len(seconds))

    def before_reading(self, tell: Callable[[], None]) -> None:
        """Calls `tell` whenever somebody looks, before anything is read."""
        self._tellers.add(tell)

    def _calls_open(self, method: str) -> Gauge:
        gauge = self._open.get(method)
        if gauge is None:
            gauge = self._open[method] = self._in_flight.labels(_short(method))
        return gauge

    def _flush(self) -> None:
        # Ends first: else a call that ends meanwhile would be counted as ended only.
        self._ended.flush()
        self._began.flush()
        for batches in tuple(self._batch_metrics.values()):
            batches.flush()

    # Batches.

    def batches(self, model: str, version: int) -> BatchMetrics:
        """What counts the batches of a version, and its requests (see inference.batching.BatchObserver)."""
        labels = (model, str(version))
        made = BatchMetrics(
            self._rows.labels(*labels),
            self._joined.labels(*labels),
            self._batches.labels(*labels),
            self._compute_seconds.labels(*labels),
            self._queue_seconds.labels(*labels),
        )
        self._batch_metrics[labels] = made
        return made

    def watch_queue(self, model: str, version: int, rows: Callable[[], int]) -> None:
        """Asks `rows` how many rows wait for a version, when somebody looks."""
        self._queue_rows.labels(model, str(version)).set_function(rows)

    def watch_memory(self, buffered: Callable[[], int]) -> None:
        """Reads `buffered`, the bytes kept for callers, whenever the metrics are read."""
        text = "Memory used by requests, messages in transit and unread replies, in bytes."
        Gauge("layerserve_buffered_bytes", text, registry=self.registry).set_function(buffered)

    # Loads (see repository.RepositoryObserver).

    def version_loaded(self, model: str, version: int, seconds: float) -> None:
        """A version became ready."""
        self._loaded.labels(model, str(version)).set(1)
        self._loads.labels(model).inc()
        self._load_seconds.labels(model).observe((seconds,))

    def version_failed(self, model: str, version: int) -> None:
        """A version could not be loaded."""
        self._load_failures.labels(model).inc()

    def version_released(self, model: str, version: int) -> None:
        """A version was freed. Its series end with it: with a model that is trained each day they would pile up."""
        labels = (model, str(version))
        # What is counted later would begin its series anew.
        self._ended.flush()
        self._batch_metrics.pop(labels, None)
        for family in self._of_versions:
            with suppress(KeyError):  # nothing was counted
                family.remove(*labels)
        for key in [key for key in tuple(self._answered) if key[1:3] == labels]:
            del self._answered[key]
            method, _, _, status = key
            for counter in (self._requests, self._errors):
                with suppress(KeyError):
                    counter.remove(_short(method), *labels, status)

    # Training.

    def runs_changed(self, queued: int, running: int) -> None:
        """So many runs wait, and so many train."""
        self._runs.labels("queued").set(queued)
        self._runs.labels("running").set(running)

    def run_progressed(self, model: str, epoch: int, step: int, loss: float | None) -> None:
        """A run of a model made a step."""
        self._run_epoch.labels(model).set(epoch)
        self._run_step.labels(model).set(step)
        if loss is not None:
            self._run_loss.labels(model).set(loss)

    def run_ended(self, model: str, state: str) -> None:
        """A run of a model ended."""
        self._runs_ended.labels(model, state).inc()


class Tellers(Collector):
    """What has something to tell before a registry is read. The first of its collectors, with no metric of its own."""

    def __init__(self, registry: CollectorRegistry, last: Callable[[], None]) -> None:
        """`last` is called after all others."""
        self._tellers: list[Callable[[], None]] = []
        self._last = last
        registry.register(self)

    def add(self, tell: Callable[[], None]) -> None:
        """One more."""
        self._tellers.append(tell)

    def collect(self) -> Iterable[Metric]:
        """Called by the registry, when somebody looks."""
        for tell in self._tellers:
            tell()
        self._last()
        return ()


class BatchMetrics:
    """The metrics of one version, with their labels looked up once."""

    def __init__(
        self,
        rows: Counter,
        requests: Counter,
        batch_rows: Distribution,
        seconds: Distribution,
        queue_seconds: Distribution,
    ) -> None:
        self._rows = rows
        self._requests = requests
        self._batch_rows = batch_rows
        self._seconds = seconds
        self._ran: Buffer[tuple[int, int, float]] = Buffer(self._count_ran)
        self._waited: Buffer[float] = Buffer(queue_seconds.observe)

    def batch_ran(self, rows: int, requests: int, seconds: float) -> None:
        """A batch ran."""
        self._ran.add(((rows, requests, seconds),), shared=requests > 1)

    def requests_waited(self, seconds: Sequence[float]) -> None:
        """The first batches of some requests began so many seconds after they came."""
        self._waited.add(seconds, shared=len(seconds) > 1)

    def flush(self) -> None:
        """Counts what waits to be counted."""
        self._ran.flush()
        self._waited.flush()

    def _count_ran(self, batches: Sequence[tuple[int, int, float]]) -> None:
        rows, requests, seconds = zip(*batches, strict=True)
        self._rows.inc(sum(rows))
        self._requests.inc(sum(requests))
        self._batch_rows.observe(rows)
        self._seconds.observe(seconds)


def _short(method: str) -> str:
    """ "Predict" of "/layerserve.v1.PredictionService/Predict"."""
    return method.rpartition("/")[2]

"""Names, meanings, labels and buckets of the metrics, in families of time series. `metrics` counts them."""

from __future__ import annotations

from typing import TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge

from layerserve_server.observability.histograms import HistogramFamily

#: Buckets from 100 microseconds (a small network) to seconds (a large batch), about 2.5 times apart.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
#: Powers of two, the usual batch sizes.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
#: Loading reads files from kilobytes to gigabytes.
LOAD_SECONDS = (0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)

F = TypeVar("F", Counter, Gauge, HistogramFamily)

VERSION = ("model", "version")


class Families:
    """Makes the families of a registry, whose names begin with `layerserve_`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        #: Label names by metric name, for the documentation.
        self.labels: dict[str, tuple[str, ...]] = {}
        #: Families with a label for the model, with their label names.
        self._of_models: list[tuple[Counter | Gauge | HistogramFamily, tuple[str, ...]]] = []

    def counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        """Makes a counter."""
        return self._kept(Counter(self._named(name, labels), text, labels, registry=self._registry), labels)

    def gauge(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        """Makes a gauge."""
        return self._kept(Gauge(self._named(name, labels), text, labels, registry=self._registry), labels)

    def histogram(self, name: str, text: str, labels: tuple[str, ...], buckets: tuple[float, ...]) -> HistogramFamily:
        """Makes a histogram with the upper bounds of its buckets."""
        return self._kept(HistogramFamily(self._named(name, labels), text, labels, buckets, self._registry), labels)

    def remove(self, model: str, version: str | None = None) -> None:
        """Removes the time series of a model, or only those of one of its versions."""
        which = {"model": model} if version is None else {"model": model, "version": version}
        for family, names in self._of_models:
            if which.keys() <= set(names):
                family.remove_by_labels(which)

    def _named(self, name: str, labels: tuple[str, ...]) -> str:
        self.labels[f"layerserve_{name}"] = labels
        return f"layerserve_{name}"

    def _kept(self, family: F, labels: tuple[str, ...]) -> F:
        if "model" in labels:
            self._of_models.append((family, labels))
        return family


class CallFamilies:
    """Calls, and requests of streams."""

    def __init__(self, families: Families) -> None:
        self.requests = families.counter(
            "requests",
            "Number of finished calls, by status. The model is empty if none was found.",
            ("method", *VERSION, "status"),
        )
        self.requests_seconds = families.counter(
            "requests_seconds",
            "Total time of finished calls from receiving them to sending the reply, in seconds, by status.",
            ("method", *VERSION, "status"),
        )
        self.streamed_requests = families.counter(
            "streamed_requests",
            "Number of requests of streams that were answered, by status.",
            ("method", *VERSION, "status"),
        )
        self.streamed_seconds = families.counter(
            "streamed_requests_seconds",
            "Total time of these requests from receiving them to having the reply, in seconds.",
            ("method", *VERSION, "status"),
        )
        self.streamed_request_seconds = families.histogram(
            "streamed_request_seconds",
            "Time from receiving a request of a stream to having its reply, in seconds.",
            ("method", "model"),
            SECONDS,
        )
        self.errors = families.counter(
            "errors", "Number of calls that finished with a status other than OK.", ("method", *VERSION, "status")
        )
        self.request_seconds = families.histogram(
            "request_seconds",
            "Time from receiving a call to sending its reply, in seconds.",
            ("method", "model"),
            SECONDS,
        )
        self.dropped = families.counter(
            "telemetry_dropped",
            "Number of lines of the access log, traces, or samples of requests that were lost because too many waited.",
            ("kind",),
        )
        self.in_flight = families.gauge("calls_in_flight", "Number of calls in progress.", ("method",))


class BatchFamilies:
    """Batches of a version, and its queue."""

    def __init__(self, families: Families) -> None:
        self.rows = families.counter("rows", "Number of rows computed.", VERSION)
        self.sizes = families.histogram("batch_rows", "Number of rows per batch.", VERSION, ROWS)
        self.requests = families.counter(
            "batch_requests", "Number of requests, or parts of split requests, that ran in batches.", VERSION
        )
        self.queue_seconds = families.histogram(
            "queue_seconds", "Time that a request waited in the queue, in seconds.", VERSION, SECONDS
        )
        self.compute_seconds = families.histogram(
            "compute_seconds", "Time to compute a batch, in seconds.", VERSION, SECONDS
        )
        self.queue_rows = families.gauge("queue_rows", "Number of rows in the queue.", VERSION)
        self.queue_requests = families.gauge("queue_requests", "Number of requests in the queue.", VERSION)


class VersionFamilies:
    """Versions: in memory, and loading."""

    def __init__(self, families: Families) -> None:
        self.loaded = families.gauge("model_loaded", "1 for each version in memory.", VERSION)
        self.loads = families.counter("model_loads", "Number of versions that were loaded.", ("model",))
        self.load_failures = families.counter(
            "model_load_failures", "Number of versions that failed to load.", ("model",)
        )
        self.evictions = families.counter(
            "model_evictions", "Number of versions that were unloaded to make room for others.", ("model",)
        )
        self.load_waits = families.histogram(
            "model_load_wait_seconds",
            "Time that calls waited until a version was loaded, in seconds.",
            ("outcome",),
            LOAD_SECONDS,
        )
        self.settings_errors = families.counter(
            "model_settings_errors", "Number of times that a model's settings file was invalid.", ("model",)
        )
        self.load_seconds = families.histogram(
            "model_load_seconds", "Time to load a version, in seconds.", ("model",), LOAD_SECONDS
        )


class RunFamilies:
    """Training runs."""

    def __init__(self, families: Families) -> None:
        self.active = families.gauge(
            "training_runs", "Number of training runs that are queued, running or paused, by state.", ("state",)
        )
        self.ended = families.counter(
            "training_runs_ended", "Number of training runs that ended, by state.", ("model", "state")
        )
        self.epoch = families.gauge("training_epoch", "Current epoch of the newest run of a model, from 1.", ("model",))
        self.step = families.gauge("training_step", "Current step of that epoch, from 1.", ("model",))
        self.loss = families.gauge("training_loss", "Most recent loss of that run.", ("model",))

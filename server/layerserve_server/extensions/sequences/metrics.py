"""Metrics of sequences."""

from __future__ import annotations

from collections.abc import Callable

from layerserve_server.observability.families import Families


class SequenceMetrics:
    """Counts sequences."""

    def __init__(self, families: Families) -> None:
        self._live = families.gauge("sequences", "Number of sequences under way.")
        self._bytes = families.gauge("sequence_bytes", "Memory of the states of all sequences, in bytes.")
        self._started = families.counter("sequences_started", "Number of sequences that began.", ("model",))
        self._ended = families.counter(
            "sequences_ended", "Number of sequences that their callers ended or began anew.", ("model",)
        )
        self._dropped = families.counter(
            "sequences_dropped",
            "Number of sequences that were dropped, by reason: no request came for too long ('idle'), their version "
            "was deleted or unloaded ('version'), or the server drained ('drain').",
            ("model", "reason"),
        )

    def watch(self, live: Callable[[], int], size: Callable[[], int]) -> None:
        """Sets the callbacks that return the number of sequences, and the memory of their states."""
        self._live.set_function(live)
        self._bytes.set_function(size)

    def started(self, model: str) -> None:
        """Counts a sequence that began."""
        self._started.labels(model).inc()

    def ended(self, model: str) -> None:
        """Counts a sequence that its caller ended."""
        self._ended.labels(model).inc()

    def dropped(self, model: str, reason: str) -> None:
        """Counts a sequence that was dropped."""
        self._dropped.labels(model, reason).inc()

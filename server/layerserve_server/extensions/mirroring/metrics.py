"""Metrics of shadow versions."""

from __future__ import annotations

from layerserve_server.observability.families import VERSION, Families

#: From the rounding of 32 bits to other answers.
DIFFERENCES = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0)


class ShadowMetrics:
    """Counts what became of requests that were chosen for a shadow version."""

    def __init__(self, families: Families) -> None:
        self._outcomes = families.counter(
            "shadow_requests",
            "Number of requests that were chosen for a shadow version, by outcome: its results are 'equal' within the "
            "tolerances or 'different', it 'failed', or there was no time or memory ('dropped').",
            (*VERSION, "outcome"),
        )
        self._absolute = families.histogram(
            "shadow_absolute_difference",
            "Largest difference of a request's outputs from the shadow version's.",
            VERSION,
            DIFFERENCES,
        )
        self._relative = families.histogram(
            "shadow_relative_difference",
            "Largest difference of a request's outputs from the shadow version's, relative to the largest value.",
            VERSION,
            DIFFERENCES,
        )

    def shadowed(self, model: str, version: int, outcome: str) -> None:
        """Counts a request that was chosen for a shadow version."""
        self._outcomes.labels(model, str(version), outcome).inc()

    def shadow_differed(self, model: str, version: int, absolute: float, relative: float) -> None:
        """Counts the largest differences of a request's outputs: absolute, and relative to the largest value."""
        self._absolute.labels(model, str(version)).observe((absolute,))
        self._relative.labels(model, str(version)).observe((relative,))

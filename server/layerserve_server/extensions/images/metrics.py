"""Metrics of encoded images."""

from __future__ import annotations

from layerserve_server.observability.families import Families


class ImageMetrics:
    """Counts images."""

    def __init__(self, families: Families) -> None:
        self._images = families.counter(
            "images",
            "Number of encoded images, by outcome: 'decoded', or why an image was refused: its 'format', that it is "
            "'damaged', too many 'pixels' or 'bytes', or too 'slow'; 'dropped' if its caller left, or 'failed' if its "
            "process did.",
            ("outcome",),
        )

    def count(self, outcome: str, number: int) -> None:
        """Counts images."""
        self._images.labels(outcome).inc(number)

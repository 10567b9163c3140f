"""Attributes of a sequence, shared by both clients."""

from __future__ import annotations

from layerserve.sequences.feed import SequenceFeed


class SequenceView:
    """The attributes of a sequence, according to the replies so far, without calls to the server."""

    def __init__(self, feed: SequenceFeed) -> None:
        self._feed = feed

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return self._feed.steps

    @property
    def version(self) -> int | None:
        """The version that computes the steps; None before the first."""
        return self._feed.version

"""What the repository tells of its loads, for metrics."""

from __future__ import annotations

from typing import Protocol


class RepositoryObserver(Protocol):
    """Receives events about loading."""

    def version_loaded(self, model: str, version: int, seconds: float) -> None:
        """Called after a version was loaded, which took `seconds`."""

    def version_failed(self, model: str, version: int) -> None:
        """Called after a version failed to load."""

    def version_released(self, model: str, version: int) -> None:
        """Called after a version was freed."""

    def model_gone(self, model: str) -> None:
        """Called after the last version of a model was removed. Calls of it may not have ended yet."""

    def version_evicted(self, model: str) -> None:
        """Called after a version was unloaded to make room for another."""

    def load_awaited(self, outcome: str, seconds: float) -> None:
        """Called for each call that waited for `seconds` until a version was loaded: "loaded", "failed", or "gone" if
        its caller didn't wait any more; and for each that was "refused", as too many were waiting.
        """

    def settings_invalid(self, model: str) -> None:
        """Called after a model's settings file was read that is invalid; once for each content."""

"""Models that only some callers may use, by the settings of each model."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase


class Reserved:
    """Names or patterns of callers by model. Other models are open to all who have the right. Thread-safe."""

    def __init__(self) -> None:
        #: By model. Replaced, never changed.
        self.callers: Mapping[str, tuple[str, ...]] = {}
        #: Changes with each change of the callers, so that earlier checks no longer count.
        self.version = 0

    def set(self, callers: Mapping[str, tuple[str, ...]]) -> None:
        """Replaces the callers of all models."""
        if callers != self.callers:
            self.callers = callers
            self.version += 1

    def admits(self, caller: str, model: str) -> bool:
        """Whether a model is open to the caller of this name."""
        patterns = self.callers.get(model)
        return patterns is None or any(fnmatchcase(caller, pattern) for pattern in patterns)


#: No model is reserved.
NONE = Reserved()

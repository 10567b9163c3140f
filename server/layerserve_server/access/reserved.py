"""Models that only some callers may use, by the settings of each model."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase


class Reserved:
    """Names or patterns of callers by model. Other models are open to all who have the right. Thread-safe."""

    def __init__(self) -> None:
        self._callers: Mapping[str, tuple[str, ...]] = {}
        #: Changes with each change of the callers, so that earlier checks no longer count.
        self.version = 0

    def __bool__(self) -> bool:
        return bool(self._callers)

    def set(self, callers: Mapping[str, tuple[str, ...]]) -> None:
        """Replaces the callers of all models."""
        if callers != self._callers:
            self._callers = callers
            self.version += 1

    def admits(self, caller: str, model: str) -> bool:
        """Whether a model is open to the caller of this name."""
        patterns = self._callers.get(model)
        return patterns is None or any(fnmatchcase(caller, pattern) for pattern in patterns)


#: No model is reserved.
NONE = Reserved()

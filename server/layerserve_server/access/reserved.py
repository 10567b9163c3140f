"""Models that only some callers may use, by the settings of each model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True, slots=True)
class Restriction:
    """The callers that may use something. `callers` are names or patterns; None if they can't be read."""

    callers: tuple[str, ...] | None

    def admits(self, caller: str, *, manages: bool) -> bool:
        """Whether it is open to the caller of this name. What can't be read is open to callers that `manage` only."""
        if self.callers is None:
            return manages
        return any(fnmatchcase(caller, pattern) for pattern in self.callers)


#: The restriction of a model whose callers can't be read.
UNREADABLE = Restriction(None)


class Reserved:
    """Restrictions by model. Other models are open to all who have the right. Thread-safe."""

    def __init__(self) -> None:
        #: By model. Replaced, never changed.
        self.restrictions: Mapping[str, Restriction] = {}
        #: Changes with each change of the restrictions, so that earlier checks no longer count.
        self.version = 0

    def set(self, restrictions: Mapping[str, Restriction]) -> None:
        """Replaces the restrictions of all models."""
        if restrictions != self.restrictions:
            self.restrictions = restrictions
            self.version += 1

    def admits(self, caller: str, model: str, *, manages: bool) -> bool:
        """Whether a model is open to the caller of this name."""
        restriction = self.restrictions.get(model)
        return restriction is None or restriction.admits(caller, manages=manages)


#: No model is reserved.
NONE = Reserved()

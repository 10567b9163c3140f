"""Collects all problems found in one file, so that they are reported together."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Maximum number of different problems kept; errors show fewer. A crafted file may have millions.
MAX_KEPT = 1000
#: Maximum number of owners that one text names.
MAX_NAMED = 20


@dataclass(slots=True)
class _Owners:
    """What has one problem: the first MAX_NAMED, and the number of all."""

    named: dict[str, None] = field(default_factory=dict)
    count: int = 0

    def add(self, owner: str) -> None:
        if owner not in self.named:
            self.count += 1
            if len(self.named) < MAX_NAMED:
                self.named[owner] = None

    def prefix(self) -> str:
        more = self.count - len(self.named)
        return ", ".join(self.named) + (f" and {more} more" if more else "") + ": " if self.named else ""


@dataclass(slots=True)
class Diagnostics:
    """Different problems in the order found, each with the layers that have it."""

    found: dict[str, _Owners] = field(default_factory=dict)

    def add(self, problem: str, owner: str = "") -> None:
        """Adds a problem of `owner`, such as "layer 'a'", unless there are MAX_KEPT others already."""
        if problem in self.found or len(self.found) < MAX_KEPT:
            owners = self.found.setdefault(problem, _Owners())
            if owner:
                owners.add(owner)

    @property
    def texts(self) -> list[str]:
        """One text for each problem: a class that a hundred layers lack is one problem."""
        return [f"{owners.prefix()}{problem}" for problem, owners in self.found.items()]

    def __bool__(self) -> bool:
        return bool(self.found)


def short_name(name: object) -> str:
    """A name from a file for an error text: quoted, escaped, at most 80 characters."""
    text = str(name) if isinstance(name, str) else repr(name)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return repr(shown)

"""Collects all problems found in one file, so that they are reported together."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Maximum number of texts kept; errors show fewer. A crafted file may have millions of problems.
MAX_KEPT = 1000


@dataclass(slots=True)
class Diagnostics:
    """Distinct texts, in the order found."""

    texts: dict[str, None] = field(default_factory=dict)

    def add(self, text: str) -> None:
        """Adds a text, unless there are MAX_KEPT already."""
        if len(self.texts) < MAX_KEPT:
            self.texts[text] = None

    def __bool__(self) -> bool:
        return bool(self.texts)


def brief_name(name: object) -> str:
    """A name from a file for an error text: quoted, escaped, at most 80 characters."""
    text = str(name) if isinstance(name, str) else repr(name)
    shown = text if len(text) <= 80 else text[:77] + "..."
    return repr(shown)
